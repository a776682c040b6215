//! The spans that the tracing layer makes, and the trace that events carry.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

use std::collections::HashMap;
use std::time::Duration;

use fabric_core::layers::{Faults, Tracing};
use fabric_core::{Batch, Event, Fabric, HandlerError, Retry, TraceContext};
use fabric_memory::{Memory, MemoryConfig};
use opentelemetry::trace::{
    FutureExt as _, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry_sdk::trace::{
    InMemorySpanExporter, InMemorySpanExporterBuilder, SdkTracer, SdkTracerProvider, SpanData,
};

const ORIGIN: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

struct Spans {
    exporter: InMemorySpanExporter,
    provider: SdkTracerProvider,
}

impl Spans {
    fn new() -> Self {
        let exporter = InMemorySpanExporterBuilder::new().build();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        Self { exporter, provider }
    }

    fn tracer(&self) -> SdkTracer {
        self.provider.tracer("test")
    }

    fn layer(&self) -> Tracing {
        Tracing::new().with_tracer(self.tracer())
    }

    /// The spans that have ended, by name; there is at most one of a name.
    fn take(&self) -> HashMap<String, SpanData> {
        let spans = self.exporter.get_finished_spans().unwrap();
        self.exporter.reset();
        let count = spans.len();
        let named: HashMap<_, _> =
            spans.into_iter().map(|span| (span.name.to_string(), span)).collect();
        assert_eq!(named.len(), count);
        named
    }
}

fn attribute(span: &SpanData, key: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == key);
    found.map(|attribute| attribute.value.to_string()).unwrap_or_default()
}

fn memory() -> Fabric {
    Fabric::new(Memory::new(MemoryConfig::new()).unwrap())
}

fn event(topic: &str) -> Event {
    Event::to(topic).id("7").correlation_id("talk").source("test").text("x").build().unwrap()
}

fn traceparent(span: &SpanData) -> String {
    format!("00-{}-{}-01", span.span_context.trace_id(), span.span_context.span_id())
}

#[tokio::test(start_paused = true)]
async fn a_publish_is_a_span_whose_context_travels_with_the_event() {
    let spans = Spans::new();
    let fabric = memory().layer(spans.layer()).unwrap();
    let mut plain = fabric.subscribe("orders.*").await.unwrap();
    let root = opentelemetry::Context::new().with_span(spans.tracer().start("root"));
    fabric.publish(event("orders.made")).with_context(root.clone()).await.unwrap();
    root.span().end();
    let spans = spans.take();
    let publish = &spans["publish orders.made"];
    assert_eq!(publish.span_kind, SpanKind::Producer);
    assert_eq!(publish.parent_span_id, spans["root"].span_context.span_id());
    for (key, value) in [
        ("messaging.system", "memory"),
        ("messaging.operation.name", "publish"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", "orders.made"),
        ("messaging.message.id", "7"),
        ("messaging.message.conversation_id", "talk"),
        ("cloudevents.event_source", "test"),
        ("messaging.batch.message_count", ""),
        ("error.type", ""),
    ] {
        assert_eq!(attribute(publish, key), value, "{key}");
    }
    let delivery = plain.recv().await.unwrap().unwrap();
    assert_eq!(&*delivery.trace().unwrap().traceparent, traceparent(publish));
}

#[tokio::test(start_paused = true)]
async fn a_trace_that_is_there_stays_and_is_linked() {
    let spans = Spans::new();
    let fabric = memory().layer(spans.layer()).unwrap();
    let mut plain = fabric.subscribe("a").await.unwrap();
    let trace = TraceContext::new(ORIGIN).unwrap().with_state("vendor=1").unwrap();
    let traced = Event::of(event("a")).trace(trace.clone()).build().unwrap();
    fabric.publish(traced).await.unwrap();
    let publish = &spans.take()["publish a"];
    assert_eq!(publish.span_kind, SpanKind::Client);
    let link = &publish.links[0].span_context;
    assert_eq!(link.span_id().to_string(), "b7ad6b7169203331");
    assert_eq!(link.trace_state().header(), "vendor=1");
    assert_eq!(plain.recv().await.unwrap().unwrap().trace(), Some(&trace));
}

#[tokio::test(start_paused = true)]
async fn a_consumer_continues_the_trace_and_hands_it_on() {
    let spans = Spans::new();
    let fabric = memory().layer(spans.layer()).unwrap();
    let mut done = fabric.subscribe("done.*").await.unwrap();
    let inside = fabric.clone();
    let consumer = fabric
        .consumer("g")
        .on_pattern("work.*", async move |_: Event, _| {
            inside.publish(Event::to("done.inside").text("x")).await?;
            Ok(Event::to("done.output").text("x"))
        })
        .start()
        .await
        .unwrap();
    fabric.publish(event("work.one")).await.unwrap();
    let inside = done.recv().await.unwrap().unwrap();
    let output = done.recv().await.unwrap().unwrap();
    consumer.drain().await.unwrap();
    let spans = spans.take();
    let (sent, process) = (&spans["publish work.one"], &spans["process work.one"]);
    assert_eq!(process.span_kind, SpanKind::Consumer);
    assert_eq!(process.span_context.trace_id(), sent.span_context.trace_id());
    assert_eq!(process.parent_span_id, sent.span_context.span_id());
    assert_eq!(attribute(process, "messaging.consumer.group.name"), "g");
    let publish = &spans["publish done.inside"];
    assert_eq!(publish.parent_span_id, process.span_context.span_id());
    assert_eq!(&*inside.trace().unwrap().traceparent, traceparent(publish));
    assert_eq!(&*output.trace().unwrap().traceparent, traceparent(process));
    let link = &spans["publish done.output"].links[0].span_context;
    assert_eq!(link.span_id(), process.span_context.span_id());
    let ack = &spans["ack work.one"];
    assert_eq!((ack.span_kind.clone(), ack.links.len()), (SpanKind::Client, 1));
}

#[tokio::test(start_paused = true)]
async fn failures_are_marked_and_settlements_can_be_left_out() {
    let spans = Spans::new();
    let faulty = memory().layer(Faults::seeded(1).refuse(1.0)).unwrap();
    let fabric = faulty.layer(spans.layer()).unwrap();
    fabric.publish(event("a")).await.unwrap_err();
    let publish = &spans.take()["publish a"];
    assert_eq!(attribute(publish, "error.type"), "connect");
    assert!(matches!(&publish.status, Status::Error { .. }));

    let fabric = memory().layer(spans.layer().without_settling()).unwrap();
    let consumer = fabric
        .consumer("g")
        .on_pattern("a", async |_: Event, _| {
            Err::<(), _>(HandlerError::transient("the arm is broken"))
        })
        .retry(Retry::none())
        .start()
        .await
        .unwrap();
    let mut letters = fabric.subscribe("dlq.g").await.unwrap();
    fabric.publish(event("a")).await.unwrap();
    drop(letters.recv().await.unwrap().unwrap());
    consumer.drain().await.unwrap();
    let spans = spans.take();
    let process = &spans["process a"];
    assert_eq!(attribute(process, "error.type"), "_OTHER");
    let Status::Error { description } = &process.status else { panic!("no error") };
    assert!(description.contains("the arm is broken"), "{description}");
    let mut names: Vec<_> = spans.keys().map(String::as_str).collect();
    names.sort_unstable();
    assert_eq!(names, ["process a", "publish a", "publish dlq.g"]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_one_span_with_what_is_the_same_for_all() {
    let spans = Spans::new();
    let layer = spans.layer().destinations(["plan.*.step"]).unwrap();
    let fabric = memory().layer(layer).unwrap();
    let batch = Batch::new([
        event("plan.7.step"),
        Event::of(event("plan.7.step")).id("8").build().unwrap(),
    ]);
    fabric.backend().submit(batch).await.unwrap().await;
    let taken = spans.take();
    let publish = &taken["publish plan.*.step"];
    assert_eq!(attribute(publish, "messaging.batch.message_count"), "2");
    assert_eq!(attribute(publish, "messaging.destination.name"), "plan.7.step");
    assert_eq!(attribute(publish, "messaging.destination.template"), "plan.*.step");
    assert_eq!(attribute(publish, "messaging.message.id"), "");
    let batch = Batch::new([event("plan.7.step"), event("other")]);
    fabric.backend().submit(batch).await.unwrap().await;
    assert_eq!(attribute(&spans.take()["publish"], "messaging.destination.name"), "");
}

#[tokio::test(start_paused = true)]
async fn work_by_hand_has_a_span_and_given_up_work_says_so() {
    let spans = Spans::new();
    let fabric = memory().layer(spans.layer()).unwrap();
    let mut plain = fabric.subscribe("a").await.unwrap();
    fabric.publish(event("a")).await.unwrap();
    let delivery = plain.recv().await.unwrap().unwrap();
    spans.take();
    let current = delivery.process(async {
        tokio::task::yield_now().await;
        Ok::<_, String>(opentelemetry::Context::current().span().span_context().span_id())
    });
    let current = current.await.unwrap();
    assert_eq!(spans.take()["process a"].span_context.span_id(), current);
    let given_up = delivery.process(std::future::pending::<Result<(), String>>());
    let given_up = tokio::time::timeout(Duration::from_secs(1), given_up).await;
    assert!(given_up.is_err());
    assert_eq!(attribute(&spans.take()["process a"], "error.type"), "cancelled");
}

#[tokio::test(start_paused = true)]
async fn a_request_is_a_span_whose_context_reaches_the_responder() {
    let spans = Spans::new();
    let fabric = memory().layer(spans.layer()).unwrap();
    let mut requests = fabric.responder("r").serve("ask").await.unwrap();
    let (answer, trace) = tokio::join!(fabric.request(event("ask")), async {
        let request = requests.recv().await.unwrap().unwrap();
        let trace = request.trace().cloned();
        request.reply(event("ask")).await.unwrap();
        trace
    });
    answer.unwrap();
    let asked = &spans.take()["request ask"];
    assert_eq!(asked.span_kind, SpanKind::Client);
    assert_eq!(&*trace.unwrap().traceparent, traceparent(asked));
}
