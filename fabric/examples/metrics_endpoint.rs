//! A metrics endpoint: what a service does, on a page that Prometheus reads.
//!
//! ```text
//! cargo run -p fabric --features metrics --example metrics_endpoint [URL] [serve]
//! ```
//!
//! The URL is `memory://` unless given. With `serve` it goes on until Ctrl-C.

#![expect(clippy::print_stdout, reason = "an example talks to a person")]

use std::time::Duration;

use fabric::layers::Metrics;
use fabric::{Context, Event, Fabric, HandlerError, Result, Retry};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().unwrap_or_else(|| "memory://".to_owned());
    let serves = arguments.next().is_some_and(|argument| argument == "serve");

    // The recorder first, then the layer that tells it. A program with one recorder may install it
    // for the whole process instead, and say `Metrics::new()` alone.
    let recorder = PrometheusBuilder::new().build_recorder();
    let page = recorder.handle();
    let metrics = Metrics::new().topics(["jobs.*"])?.with_recorder(recorder);
    let fabric = fabric::connect(&url).await?.layer(metrics.clone())?;

    let mut done = fabric.subscribe("done.*").await?;
    let service = fabric
        .consumer("workers")
        .on_pattern("jobs.*", async |job: Event, cx: Context| match cx.attempt() {
            1 if job.id() == "job-3" => Err(HandlerError::transient("out of paper")),
            _ => Ok(Event::to("done.print").text("done")),
        })
        .retry(Retry::fixed(Duration::from_millis(10)))
        .start()
        .await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    println!("http://{address}/metrics");
    let endpoint = tokio::spawn(serve(listener, page, metrics, fabric.clone()));

    for n in 0..5 {
        fabric.publish(Event::to("jobs.print").id(format!("job-{n}")).text("a page")).await?;
    }
    for _ in 0..5 {
        done.recv().await.expect("the fabric is open")?.ack().await?;
    }
    if serves {
        fabric::shutdown_signal().await;
    }
    service.drain().await?;

    // What Prometheus would see.
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nconnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let metric = |line: &&str| line.starts_with("fabric_") && !line.contains("quantile");
    for line in answer.lines().filter(metric) {
        println!("{line}");
    }
    assert!(answer.contains("fabric_messages_published_total"));
    assert!(answer.contains("fabric_messages_received_total"));
    endpoint.abort();
    fabric.close(Duration::from_secs(1)).await?;
    Ok(())
}

/// The smallest web server that a scraper is content with.
async fn serve(
    listener: TcpListener,
    page: PrometheusHandle,
    metrics: Metrics,
    fabric: Fabric,
) -> Result<()> {
    while let Ok((mut stream, _)) = listener.accept().await {
        // Queue depths are asked for before each scrape.
        if let Err(error) = metrics.measure(&fabric).await {
            println!("queue depths are not known: {error}");
        }
        let body = page.render();
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\n";
        let answer = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await;
        let _ = stream.write_all(answer.as_bytes()).await;
    }
    Ok(())
}
