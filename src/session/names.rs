//! The names that a session knows, for completion, `\d` and `\df`.

use arrow::datatypes::{FieldRef, SchemaRef};
use datafusion::execution::SessionState;

use crate::error::Result;
use crate::functions::carrier::carrier_name;
use crate::functions::effect::{EffectFunction, Signature};
use crate::model::state::State;
use crate::session::catalog::VIEWS;
use crate::session::gate::Gate;

/// A table or view with its columns.
#[derive(Debug, Clone)]
pub struct TableName {
    /// Its name.
    pub name: String,
    /// `source table`, `view`, `external table`, `system table` or `system view`.
    pub kind: String,
    /// Names and types of its columns.
    pub columns: Vec<(String, String)>,
    /// The same as a schema; none for a view that cannot be planned.
    pub schema: Option<SchemaRef>,
    /// The column that is its primary key, of a source table.
    pub key: Option<String>,
}

/// A name as SQL writes it, whatever stands in it.
pub fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text as a literal of SQL.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// What a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FunctionKind {
    /// Pure: it changes nothing.
    Scalar,
    /// It changes state; or a procedure.
    Effect,
}

/// A function.
#[derive(Debug, Clone)]
pub struct FunctionName {
    /// Its name.
    pub name: String,
    /// How it is called.
    pub signature: String,
    /// What it is.
    pub kind: FunctionKind,
    /// What it does.
    pub description: String,
    /// The names of its parameters, for `name => value`; none of a pure function.
    pub parameters: Vec<&'static str>,
}

/// All names of a session.
#[derive(Debug, Clone, Default)]
pub struct Names {
    /// Tables and views.
    pub tables: Vec<TableName>,
    /// Functions.
    pub functions: Vec<FunctionName>,
}

/// What names resolve to in `session`, whose tables are those of `state`.
pub(super) async fn names(session: &SessionState, state: &State, gate: &Gate) -> Result<Names> {
    let mut names = Names::default();
    let options = &session.config_options().catalog;
    let catalog = session.catalog_list().catalog(&options.default_catalog);
    let schema = catalog.and_then(|catalog| catalog.schema(&options.default_schema));
    if let Some(schema) = schema {
        for name in schema.table_names() {
            // A view whose table was dropped is listed all the same, without columns.
            let table = schema.table(&name).await.ok().flatten();
            let schema = table.map(|table| table.schema());
            let column = |field: &FieldRef| (field.name().clone(), field.data_type().to_string());
            let fields = schema.iter().flat_map(|schema| schema.fields().iter());
            names.tables.push(TableName {
                kind: state
                    .name_in_use(&name)
                    .unwrap_or_else(|| system_kind(&name))
                    .to_owned(),
                columns: fields.map(column).collect(),
                key: state.table(&name).map(|table| table.def.key.clone()),
                schema,
                name,
            });
        }
    }
    let effect = |signature: &Signature| FunctionName {
        name: signature.name.to_owned(),
        signature: signature.usage(),
        kind: FunctionKind::Effect,
        description: signature.doc.to_owned(),
        parameters: signature.parameters.iter().map(|one| one.name).collect(),
    };
    let effects = EffectFunction::ALL
        .iter()
        .map(|function| function.signature());
    let effects: Vec<&Signature> = effects
        .chain(gate.procedures().all().iter().copied())
        .collect();
    for (name, function) in session.scalar_functions() {
        let ours = |signature: &&Signature| {
            signature.name == name || carrier_name(signature.name) == *name
        };
        if effects.iter().any(ours) || name.starts_with("__") {
            continue;
        }
        let documentation = function.documentation();
        names.functions.push(FunctionName {
            name: name.clone(),
            signature: documentation
                .map_or_else(|| format!("{name}()"), |text| text.syntax_example.clone()),
            kind: FunctionKind::Scalar,
            description: documentation
                .map(|text| text.description.clone())
                .unwrap_or_default(),
            parameters: Vec::new(),
        });
    }
    names.functions.extend(effects.into_iter().map(effect));
    names.functions.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(names)
}

fn system_kind(name: &str) -> &'static str {
    match VIEWS.iter().any(|(view, _)| *view == name) {
        true => "system view",
        false => "system table",
    }
}
