//! The `events` table: the ledger itself, as Parquet files.

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::config::TableParquetOptions;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;

use crate::id::Version;
use crate::ledger::history::{EventsFile, events_files};
use crate::ledger::store::{self, Store};
use crate::model::columns;

/// The columns, with plain text in place of the dictionaries of the files, so that every client
/// reads them.
static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let plain = |field: &Arc<Field>| match field.data_type() {
        DataType::Dictionary(_, _) => {
            Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8))
        }
        _ => Arc::clone(field),
    };
    Arc::new(Schema::new(
        columns::schema()
            .fields()
            .iter()
            .map(plain)
            .collect::<Vec<_>>(),
    ))
});

/// All events up to one version, or at least those of it.
#[derive(Debug)]
pub struct Events {
    store: Store,
    store_url: ObjectStoreUrl,
    version: Version,
    scope: Scope,
}

/// Which files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    /// All up to the version.
    All,
    /// That which holds the version.
    Commit,
}

impl Events {
    /// The events up to `version`.
    pub fn new(store: Store, store_url: ObjectStoreUrl, version: Version) -> Self {
        Self {
            store,
            store_url,
            version,
            scope: Scope::All,
        }
    }

    /// The events of one commit, and of those that share a file with it.
    pub fn of_commit(store: Store, store_url: ObjectStoreUrl, version: Version) -> Self {
        Self {
            scope: Scope::Commit,
            ..Self::new(store, store_url, version)
        }
    }

    fn file(file: &EventsFile) -> Result<PartitionedFile> {
        let mut part = PartitionedFile::new(file.path.as_str(), file.bytes);
        part.object_meta.location = store::location(&file.path)
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(part)
    }
}

#[async_trait]
impl TableProvider for Events {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&SCHEMA)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mut files = events_files(&self.store, self.version)
            .await
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        match self.scope {
            Scope::All => {}
            Scope::Commit => {
                files.retain(|file| file.from <= self.version && self.version <= file.to);
            }
        }
        if files.is_empty() {
            let schema = datafusion::common::project_schema(&SCHEMA, projection)?;
            return Ok(Arc::new(EmptyExec::new(schema)));
        }
        let mut options = TableParquetOptions::new();
        options.global = state.config_options().execution.parquet.clone();
        let source = ParquetSource::new(Arc::clone(&SCHEMA))
            .with_table_parquet_options(options)
            .with_pushdown_filters(true);
        let parts = state
            .config_options()
            .execution
            .target_partitions
            .clamp(1, files.len());
        let mut groups: Vec<Vec<PartitionedFile>> = vec![Vec::new(); parts];
        for (index, file) in files.iter().enumerate() {
            if let Some(group) = groups.get_mut(index * parts / files.len()) {
                group.push(Self::file(file)?);
            }
        }
        let config = FileScanConfigBuilder::new(self.store_url.clone(), Arc::new(source))
            .with_file_groups(groups.into_iter().map(FileGroup::new).collect())
            .with_projection_indices(projection.cloned())?
            .with_limit(limit)
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }
}
