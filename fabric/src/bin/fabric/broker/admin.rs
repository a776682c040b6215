//! The administration over HTTP: whether the broker lives, whether it takes clients, what it counts.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use fabric::Result;
use fabric::zmq::broker::Broker;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::metrics;

/// How long somebody may take to send a request's head.
const PATIENCE: Duration = Duration::from_secs(5);
/// The most connections at a time.
const MOST: usize = 64;

/// Serves until the future is dropped.
pub(super) async fn serve(listener: TcpListener, broker: Arc<Broker>, hwm: usize) -> Result<()> {
    match listener.local_addr() {
        Ok(at) => tracing::info!(%at, "the administration listens"),
        Err(error) => tracing::warn!(%error, "the administration does not know where it listens"),
    }
    let mut connections = JoinSet::new();
    loop {
        while connections.len() >= MOST {
            let _ = connections.join_next().await;
        }
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: others have to go first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let broker = Arc::clone(&broker);
        let answer = service_fn(move |request: Request<Incoming>| {
            let response = answer(&broker, hwm, request.method(), request.uri().path());
            std::future::ready(Ok::<_, Infallible>(response))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(PATIENCE)
            .serve_connection(TokioIo::new(stream), answer);
        connections.spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection to the administration broke");
            }
        });
    }
}

fn answer(broker: &Broker, hwm: usize, method: &Method, path: &str) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
    }
    match path {
        "/healthz" => match broker.is_alive() {
            (true, _) => text(StatusCode::OK, "ok\n".to_owned()),
            (false, idle) => {
                text(StatusCode::SERVICE_UNAVAILABLE, format!("the loop stands for {idle:?}\n"))
            }
        },
        "/readyz" if broker.is_ready() => text(StatusCode::OK, "ready\n".to_owned()),
        "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n".to_owned()),
        "/metrics" => text(StatusCode::OK, metrics::write(&broker.stats(), hwm)),
        _ => text(StatusCode::NOT_FOUND, "/healthz, /readyz, /metrics\n".to_owned()),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let kind = hyper::header::HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}
