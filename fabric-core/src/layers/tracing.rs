//! Spans of OpenTelemetry, and their context on events.

use std::fmt;
use std::sync::Arc;
use std::task::{Context as Task, Poll, ready};
use std::time::{Duration, SystemTime};

use opentelemetry::global::BoxedTracer;
use opentelemetry::trace::{
    Link, SpanBuilder, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags,
    TraceId, TraceState, Tracer,
};
use opentelemetry::{Context, InstrumentationScope, KeyValue, global};
use tokio::time::Instant;

use super::semconv::System;
use super::way::{Way, groups_by_way, requests};
use crate::backend::{Backend, DynGroups, DynRequestReply, RequestReplyBackend, SharedBackend};
use crate::batch::{Batch, Confirms, Outcomes};
use crate::chunk::Chunk;
use crate::event::{Event, TraceContext};
use crate::group::Group;
use crate::info::BackendInfo;
use crate::layer::Layer;
use crate::options::SubscribeOptions;
use crate::patterns::{IntoPatterns, Patterns};
use crate::request::{Requests, RespondOptions};
use crate::subscription::{Source, Subscription};
use crate::topic::Topic;
use crate::watch::{Asked, Place, Watch, Work};
use crate::{Error, Result};

/// Makes spans by OpenTelemetry's conventions for messaging, and carries their context with events.
///
/// * **Publishing** is a span from the call to the confirm, a child of the current span. An event
///   without a trace of its own gets the span's as [`Event::trace`], which travels with it on
///   every backend; one that has a trace keeps it, and the span is linked to it.
/// * **Processing** is a span around each handler of a consumer, and around
///   [`Delivery::process`](crate::Delivery::process). It continues the trace of the event, or is a
///   child of the current span, linked to the event's. It is current while the handler runs, so
///   that what the handler publishes belongs to it, and so do the outputs that it returns.
///   Events that only wait in the process have no span.
/// * **Settling** is a span for each ack, nack and reject, linked to the events;
///   [`without_settling`](Self::without_settling) leaves them out.
/// * **Requests** are spans from the question to the answer.
///
/// Names and attributes follow the conventions, with `error.type` and an error status on failure.
/// The destination is the topic, or the pattern that it matches where
/// [`destinations`](Self::destinations) names some: do so where topics hold ids.
///
/// Spans go to the tracer provider that is installed globally when the layer is added, or to a
/// [tracer](Self::with_tracer) of one's own. For spans of the crate `tracing` to be their parents,
/// its bridge has to make its context current (`tracing-opentelemetry` does).
///
/// It belongs outside of all other layers, so that a span covers what the program waits for.
///
/// ```
/// use fabric_core::layers::Tracing;
/// # fn example(fabric: fabric_core::Fabric) -> fabric_core::Result<fabric_core::Fabric> {
/// fabric.layer(Tracing::new().destinations(["orders.*", "plan.*.step_ready"])?)
/// # }
/// ```
///
/// # Errors
/// Adding it never fails.
#[derive(Clone, Default)]
#[must_use = "a layer does nothing before it is added"]
pub struct Tracing {
    tracer: Option<Arc<BoxedTracer>>,
    destinations: Option<Patterns>,
    without_settling: bool,
}

impl Tracing {
    /// Spans for the tracer provider that is installed globally.
    pub fn new() -> Self {
        Self::default()
    }

    /// Spans for this tracer.
    pub fn with_tracer<T>(mut self, tracer: T) -> Self
    where
        T: Tracer<Span: Send + Sync + 'static> + Send + Sync + 'static,
    {
        self.tracer = Some(Arc::new(BoxedTracer::new(Box::new(tracer))));
        self
    }

    /// Names the first of these patterns that a topic matches instead of the topic.
    ///
    /// # Errors
    /// `InvalidTopic` for a pattern that is none.
    pub fn destinations(mut self, patterns: impl IntoPatterns) -> Result<Self> {
        self.destinations = Some(patterns.into_patterns()?);
        Ok(self)
    }

    /// Leaves out the spans of settlements.
    pub const fn without_settling(mut self) -> Self {
        self.without_settling = true;
        self
    }
}

impl fmt::Debug for Tracing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracing")
            .field("destinations", &self.destinations)
            .field("without_settling", &self.without_settling)
            .finish_non_exhaustive()
    }
}

impl Layer for Tracing {
    fn layer(&self, inner: SharedBackend) -> Result<SharedBackend> {
        let scope = || {
            InstrumentationScope::builder("fabric")
                .with_version(env!("CARGO_PKG_VERSION"))
                .with_schema_url("https://opentelemetry.io/schemas/1.42.0")
                .build()
        };
        let tracer = self.tracer.clone();
        let desk = Desk {
            tracer: tracer.unwrap_or_else(|| Arc::new(global::tracer_with_scope(scope()))),
            server: server(inner.info()),
            system: System::of(&inner.info().name),
            destinations: self.destinations.clone(),
            settling: !self.without_settling,
        };
        Ok(Arc::new(Traced { inner, desk: Arc::new(desk) }))
    }
}

/// What every span of one stack needs.
struct Desk {
    tracer: Arc<BoxedTracer>,
    system: System,
    server: Vec<KeyValue>,
    destinations: Option<Patterns>,
    settling: bool,
}

/// The attributes of the server, which is none inside a process.
fn server(info: &BackendInfo) -> Vec<KeyValue> {
    let client = Some(&info.client_id).filter(|id| !id.is_empty());
    let mut known: Vec<_> =
        client.map(|id| KeyValue::new("messaging.client.id", id.clone())).into_iter().collect();
    if info.server.is_empty() || info.name == "memory" {
        return known;
    }
    match info.server.rsplit_once(':').map(|(host, port)| (host, port.parse::<i64>())) {
        Some((host, Ok(port))) => {
            known.push(KeyValue::new("server.address", host.to_owned()));
            known.push(KeyValue::new("server.port", port));
        }
        _ => known.push(KeyValue::new("server.address", info.server.clone())),
    }
    known
}

impl Desk {
    /// A span of one operation on these events; more is known of a single one.
    fn span<'a>(
        &self,
        operation: &'static str,
        kind: &'static str,
        group: Option<&Group>,
        mut events: impl ExactSizeIterator<Item = &'a Event> + Clone,
    ) -> SpanBuilder {
        let mut attributes = vec![
            KeyValue::new("messaging.system", self.system.name.clone()),
            KeyValue::new("messaging.operation.name", operation),
            KeyValue::new("messaging.operation.type", kind),
        ];
        attributes.extend(self.server.iter().cloned());
        if let Some(group) = group {
            let group = group.as_str().to_owned();
            attributes.push(KeyValue::new("messaging.consumer.group.name", group));
        }
        let destination = self.destination(events.clone().map(Event::topic), &mut attributes);
        match (events.len(), events.next()) {
            (1, Some(event)) => describe(event, &mut attributes),
            (count, _) => {
                attributes.push(KeyValue::new("messaging.batch.message_count", count as i64));
            }
        }
        let name = match destination {
            Some(destination) => format!("{operation} {destination}"),
            None => operation.to_owned(),
        };
        SpanBuilder::from_name(name).with_attributes(attributes)
    }

    /// Notes the destination where it is the same for all; what a span's name says of it.
    fn destination<'a>(
        &self,
        mut topics: impl Iterator<Item = &'a Topic>,
        attributes: &mut Vec<KeyValue>,
    ) -> Option<String> {
        let first = topics.next()?;
        if topics.any(|topic| topic != first) {
            return None;
        }
        let topic = first.as_str().to_owned();
        attributes.push(KeyValue::new("messaging.destination.name", topic.clone()));
        let Some(patterns) = &self.destinations else { return Some(topic) };
        let template = patterns.iter().find(|pattern| pattern.matches(first))?.as_str().to_owned();
        attributes.push(KeyValue::new("messaging.destination.template", template.clone()));
        Some(template)
    }

    fn start(&self, builder: SpanBuilder, parent: &Context) -> Context {
        parent.with_span(self.tracer.build_with_context(builder, parent))
    }
}

fn describe(event: &Event, attributes: &mut Vec<KeyValue>) {
    attributes.push(KeyValue::new("messaging.message.id", event.id().to_string()));
    attributes.push(KeyValue::new("cloudevents.event_id", event.id().to_string()));
    attributes.push(KeyValue::new("cloudevents.event_source", event.source().to_owned()));
    attributes.push(KeyValue::new("cloudevents.event_type", event.event_type().to_owned()));
    if let Some(conversation) = event.correlation_id() {
        let conversation = conversation.to_string();
        attributes.push(KeyValue::new("messaging.message.conversation_id", conversation));
    }
}

/// A span that ends with this value; without an outcome it was given up.
struct Open(Context);

impl Open {
    fn end(self, error: Option<&Error>) {
        if let Some(error) = error {
            self.fail(error.kind().as_str(), error.to_string());
        }
        self.0.span().end();
    }

    fn fail(&self, kind: &'static str, text: String) {
        self.0.span().set_attribute(KeyValue::new("error.type", kind));
        self.0.span().set_status(Status::error(text));
    }
}

/// The trace that an event carries.
fn remote(event: &Event) -> Option<SpanContext> {
    let trace = event.trace()?;
    let mut parts = trace.traceparent.split('-').skip(1);
    let trace_id = TraceId::from_hex(parts.next()?).ok()?;
    let span_id = SpanId::from_hex(parts.next()?).ok()?;
    let flags = u8::from_str_radix(parts.next()?, 16).ok()?;
    let state = trace.tracestate.as_ref().and_then(|state| state.parse::<TraceState>().ok());
    let state = state.unwrap_or_default();
    let context = SpanContext::new(trace_id, span_id, TraceFlags::new(flags), true, state);
    context.is_valid().then_some(context)
}

/// What an event carries of a span.
fn carried(context: &Context) -> Option<TraceContext> {
    let span = context.span();
    let of = span.span_context();
    if !of.is_valid() {
        return None;
    }
    let (trace_id, span_id, flags) = (of.trace_id(), of.span_id(), of.trace_flags());
    let trace = TraceContext::new(&format!("00-{trace_id}-{span_id}-{flags:02x}")).ok()?;
    let state = of.trace_state().header();
    if state.is_empty() {
        return Some(trace);
    }
    // A state beyond what W3C allows is left behind.
    Some(trace.clone().with_state(&state).unwrap_or(trace))
}

fn links<'a>(events: impl Iterator<Item = &'a Event>) -> Vec<Link> {
    events.filter_map(remote).map(Link::with_context).collect()
}

struct Traced {
    inner: SharedBackend,
    desk: Arc<Desk>,
}

impl Traced {
    async fn send(&self, way: Way, mut batch: Batch) -> Result<Confirms> {
        if batch.events.is_empty() {
            return way.submit(&self.inner, batch).await;
        }
        let group = match &way {
            Way::Topics => None,
            Way::Group { group, .. } => Some(group),
        };
        let span = self.publish(&mut batch, group);
        match way.submit(&self.inner, batch).await {
            Ok(confirms) => Ok(confirms.map(|outcomes: Outcomes| {
                let first = outcomes.failures().next().map(|(_, error)| error.clone());
                span.end(first.as_ref());
                outcomes
            })),
            Err(error) => {
                span.end(Some(&error));
                Err(error)
            }
        }
    }

    /// Begins the span of a publish, and gives its context to the events that have none.
    fn publish(&self, batch: &mut Batch, group: Option<&Group>) -> Open {
        let desk = &self.desk;
        let creates = batch.events.iter().any(|event| event.trace().is_none());
        let kind = if creates { SpanKind::Producer } else { SpanKind::Client };
        let span = desk.span(desk.system.send, "send", group, batch.events.iter());
        let span = span.with_kind(kind).with_links(links(batch.events.iter()));
        let context = desk.start(span, &Context::current());
        if creates && let Some(trace) = carried(&context) {
            let without = batch.events.iter_mut().filter(|event| event.trace().is_none());
            without.for_each(|event| event.set_trace(trace.clone()));
        }
        Open(context)
    }
}

impl fmt::Debug for Traced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Traced").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[deny(clippy::missing_trait_methods)]
impl Backend for Traced {
    crate::forward!(self.inner: info, capabilities, notices, replay, admin, health, close);

    fn try_submit(&self, batch: Batch) -> Result<Confirms, Batch> {
        if batch.events.is_empty() {
            return self.inner.try_submit(batch);
        }
        // A span that was begun for a batch that comes back could not be taken back.
        Err(batch)
    }

    async fn submit(&self, batch: Batch) -> Result<Confirms> {
        self.send(Way::Topics, batch).await
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Result<Subscription> {
        let watch = Arc::new(Deliveries { desk: Arc::clone(&self.desk) });
        let subscription = self.inner.subscribe(options).await?;
        Ok(subscription.map_source(|inner| TracedSource { inner, watch }))
    }

    fn request_reply(&self) -> Option<&dyn DynRequestReply> {
        self.inner.request_reply().is_some().then_some(self)
    }

    fn groups(&self) -> Option<&dyn DynGroups> {
        self.inner.groups().is_some().then_some(self)
    }
}

groups_by_way!(Traced);

#[deny(clippy::missing_trait_methods)]
impl RequestReplyBackend for Traced {
    async fn request(&self, request: Event, timeout: Duration) -> Result<Event> {
        let desk = &self.desk;
        let span = desk.span("request", "send", None, std::iter::once(&request));
        let span = span.with_kind(SpanKind::Client).with_links(links(std::iter::once(&request)));
        let context = desk.start(span, &Context::current());
        let mut request = request;
        if let (None, Some(trace)) = (request.trace(), carried(&context)) {
            request.set_trace(trace);
        }
        let span = Open(context);
        let answer = requests(&self.inner)?.request(request, timeout).await;
        span.end(answer.as_ref().err());
        answer
    }

    async fn respond(&self, options: RespondOptions) -> Result<Requests> {
        requests(&self.inner)?.respond(options).await
    }
}

/// Deliveries on their way to the program. They have no span before somebody works on them.
struct TracedSource {
    inner: Box<dyn Source>,
    watch: Arc<Deliveries>,
}

impl Source for TracedSource {
    fn poll_chunk(&mut self, cx: &mut Task<'_>) -> Poll<Option<Result<Arc<Chunk>>>> {
        let next = ready!(self.inner.poll_chunk(cx));
        Poll::Ready(next.map(|chunk| {
            chunk.map(|chunk| {
                let all = chunk.full_mask();
                let watch = Arc::clone(&self.watch);
                Arc::new(Chunk::view(chunk, all).with_watch(watch))
            })
        }))
    }

    fn poll_close(&mut self, cx: &mut Task<'_>) -> Poll<Result<()>> {
        self.inner.poll_close(cx)
    }
}

struct Deliveries {
    desk: Arc<Desk>,
}

impl Watch for Deliveries {
    fn begin(&self, deliveries: &[Place<'_>]) -> Option<Box<dyn Work>> {
        let events = deliveries.iter().map(|(chunk, n)| &chunk.events()[*n]);
        let group = deliveries.first().and_then(|(chunk, _)| chunk.group());
        let span = self.desk.span(self.desk.system.process, "process", group, events.clone());
        let span = span.with_kind(SpanKind::Consumer);
        let current = Context::current();
        let single = events.clone().next().filter(|_| events.len() == 1).and_then(remote);
        let context = match single {
            Some(creation) if !current.has_active_span() => {
                self.desk.start(span, &current.with_remote_span_context(creation))
            }
            _ => self.desk.start(span.with_links(links(events)), &current),
        };
        Some(Box::new(Processing { span: Open(context), ended: false }))
    }

    fn after(
        &self,
        chunk: &Chunk,
        mask: u64,
        asked: Asked<'_>,
        began: Instant,
        result: &Result<()>,
    ) {
        if !self.desk.settling {
            return;
        }
        let system = &self.desk.system;
        let operation = match asked {
            Asked::Ack => system.ack,
            Asked::Nack(_) => system.nack,
            Asked::Reject => system.reject,
        };
        let settled = chunk.events().iter().enumerate().filter(|(n, _)| mask & 1 << n != 0);
        let events: Vec<&Event> = settled.map(|(_, event)| event).collect();
        let events = events.into_iter();
        let span = self.desk.span(operation, "settle", chunk.group(), events.clone());
        let start = SystemTime::now().checked_sub(began.elapsed());
        let span = span
            .with_kind(SpanKind::Client)
            .with_links(links(events))
            .with_start_time(start.unwrap_or_else(SystemTime::now));
        Open(self.desk.start(span, &Context::current())).end(result.as_ref().err());
    }
}

/// Work on deliveries, in its span.
struct Processing {
    span: Open,
    ended: bool,
}

impl Work for Processing {
    fn step(&mut self, step: &mut dyn FnMut()) {
        let _current = self.span.0.clone().attach();
        step();
    }

    fn origin(&self) -> Option<TraceContext> {
        carried(&self.span.0)
    }

    fn end(mut self: Box<Self>, error: Option<&dyn fmt::Display>) {
        self.ended = true;
        if let Some(error) = error {
            self.span.fail("_OTHER", error.to_string());
        }
        self.span.0.span().end();
    }
}

impl Drop for Processing {
    fn drop(&mut self) {
        if !self.ended {
            self.span.fail("cancelled", "the work was given up".to_owned());
            self.span.0.span().end();
        }
    }
}
