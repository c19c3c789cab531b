//! Traces for OpenTelemetry, sent by OTLP over gRPC to a collector.
//!
//! The program's own spans at level `info` are sent: `request`, `statement` and `group`, with what
//! they log. Sending never waits for the collector: spans that it does not take in time are
//! dropped. The standard variables `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`,
//! `OTEL_TRACES_SAMPLER`, `OTEL_BSP_*` and `OTEL_EXPORTER_OTLP_TIMEOUT` count.

use std::time::Duration;

use opentelemetry::propagation::{Extractor, TextMapPropagator};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::registry::LookupSpan;

use crate::error::{Code, Error, Result};

/// How long the end of the process waits for the last spans to be taken. Chosen: a collector is
/// near, and nobody should wait for one that is not there.
const END_WAIT: Duration = Duration::from_secs(3);

/// The name of the service in traces, where `OTEL_SERVICE_NAME` gives no other.
const SERVICE: &str = "sluicegate";

/// Sends spans to a collector.
#[derive(Debug)]
pub struct Exporter(SdkTracerProvider);

impl Exporter {
    /// Sends spans to the collector at `endpoint`, such as `http://localhost:4317`. Nothing is
    /// sent yet. Must be called inside a runtime.
    ///
    /// # Errors
    /// `SG4003 bad-request`: this is no address of a collector.
    pub fn try_new(endpoint: &str) -> Result<Self> {
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_endpoint(endpoint)
            .build()
            .map_err(|error| {
                Error::new(
                    Code::BadRequest,
                    format!("traces cannot be sent to \"{endpoint}\""),
                )
                .with_detail(format!("{error}."))
                .with_hint("Write http://HOST:4317, the address of a collector for OTLP by gRPC.")
                .with_source(error)
            })?;
        let mut resource = Resource::builder();
        if std::env::var_os("OTEL_SERVICE_NAME").is_none() {
            resource = resource.with_service_name(SERVICE);
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        Ok(Self(provider))
    }

    /// What hands spans over.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let own = Targets::new().with_target(SERVICE, LevelFilter::INFO);
        tracing_opentelemetry::layer()
            .with_tracer(self.0.tracer(SERVICE))
            .with_filter(own)
    }

    /// Sends what is left, and ends.
    pub fn end(self) {
        if let Err(error) = self.0.shutdown_with_timeout(END_WAIT) {
            tracing::warn!(%error, "the last traces are not sent");
        }
    }
}

/// Makes a span a part of the trace that a request names, by the values of its headers of these
/// names (W3C Trace Context).
pub fn continue_trace(span: &Span, traceparent: Option<&str>, tracestate: Option<&str>) {
    let headers = Headers {
        traceparent,
        tracestate,
    };
    let context = TraceContextPropagator::new().extract(&headers);
    // Without an exporter there is no trace to continue.
    let _ = span.set_parent(context);
}

struct Headers<'h> {
    traceparent: Option<&'h str>,
    tracestate: Option<&'h str>,
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        match key {
            "traceparent" => self.traceparent,
            "tracestate" => self.tracestate,
            _ => None,
        }
    }

    fn keys(&self) -> Vec<&str> {
        vec!["traceparent", "tracestate"]
    }
}
