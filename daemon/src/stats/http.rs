//! Metrics and health over HTTP, on the control socket and where `--metrics` says.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{health, metrics};
use crate::probe::Probe;
use crate::server::Shared;

/// What is shown of a relay.
pub(crate) struct Pages {
    pub(crate) shared: Arc<Shared>,
    pub(crate) probe: Arc<Probe>,
}

/// Answers on a TCP socket until dropped. Whoever reaches it may read: it is given nothing else.
pub(crate) async fn serve(listener: TcpListener, pages: Arc<Pages>) {
    let places = Arc::new(Semaphore::new(MAX_CLIENTS));
    let mut clients = JoinSet::new();
    loop {
        while clients.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let pages = pages.clone();
                clients.spawn(async move {
                    if timeout(PATIENCE, converse(stream, &pages)).await.is_err() {
                        tracing::debug!("somebody took too long to read the metrics");
                    }
                    drop(place);
                });
            }
            Err(e) => {
                // Out of file descriptors, for instance: it may pass.
                tracing::warn!("cannot accept on the socket for metrics: {e}");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Answers one request.
pub(crate) async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, pages: &Pages) {
    let mut http = http1::Builder::new();
    // Who reads every few seconds can connect every few seconds, and who does not holds no place.
    http.keep_alive(false).max_buf_size(MAX_HEAD);
    let answer = service_fn(|request| async move { Ok::<_, Infallible>(respond(&request, pages).await) });
    if let Err(e) = http.serve_connection(TokioIo::new(stream), answer).await {
        tracing::debug!("a request for metrics was not ended: {e}");
    }
}

async fn respond(request: &Request<Incoming>, pages: &Pages) -> Response<Full<Bytes>> {
    let page = match request.uri().path() {
        "/metrics" => Page::Metrics,
        "/health" => Page::Health,
        _ => return plain(StatusCode::NOT_FOUND, "there are /metrics and /health\n".into()),
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response =
            plain(StatusCode::METHOD_NOT_ALLOWED, "this can be read and nothing else\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match page {
        Page::Metrics => exposition(pages).await,
        Page::Health => {
            let health = health::examine(&pages.shared, &pages.probe).await;
            let status = if health.well { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            plain(status, health.lines.join("\n") + "\n")
        }
    }
}

enum Page {
    Metrics,
    Health,
}

/// Written in a thread of its own: a page about thousands of clients takes longer than a packet of sound can wait.
async fn exposition(pages: &Pages) -> Response<Full<Bytes>> {
    let (stats, connections) = (pages.shared.stats.clone(), pages.shared.members.total());
    let written = tokio::task::spawn_blocking(move || metrics::write(&stats, connections)).await;
    let Ok(Ok(text)) = written else {
        return plain(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n".into());
    };
    let mut response = plain(StatusCode::OK, text);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(metrics::CONTENT_TYPE));
    response
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Readers at once; more wait.
const MAX_CLIENTS: usize = 16;
/// For a request and its answer: what Prometheus gives itself by default.
const PATIENCE: Duration = Duration::from_secs(10);
/// The head of a request; hyper's least.
const MAX_HEAD: usize = 8192;
const PAUSE: Duration = Duration::from_secs(1);
