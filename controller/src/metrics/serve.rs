//! `GET /metrics` over mutual TLS, in HTTP/1.1 or HTTP/2 as the reader likes.

use std::convert::Infallible;
use std::io;

use berth_pki::Accepted;
use berth_telemetry::{METRICS_CONTENT_TYPE, Metrics};
use futures::{Stream, StreamExt};
use http::{Method, Request, Response, StatusCode, header};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio_util::sync::CancellationToken;

/// Answers readers until told to stop.
pub(crate) async fn serve(
    metrics: Metrics,
    incoming: impl Stream<Item = io::Result<Accepted>> + Send + 'static,
    shutdown: CancellationToken,
) {
    let mut incoming = std::pin::pin!(incoming.take_until(shutdown.clone().cancelled_owned()));
    while let Some(accepted) = incoming.next().await {
        let Ok(accepted) = accepted else { continue };
        let (metrics, shutdown) = (metrics.clone(), shutdown.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let answer = answer(&metrics, request.method(), request.uri().path());
                async move { Ok::<_, Infallible>(answer) }
            });
            // Its timer closes a connection whose request does not come.
            let mut http = auto::Builder::new(TokioExecutor::new());
            http.http1().timer(TokioTimer::new());
            let connection = http.serve_connection(TokioIo::new(accepted), service);
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!("a reader of metrics went away: {error}");
                },
                () = shutdown.cancelled() => {}
            }
        });
    }
}

fn answer(metrics: &Metrics, method: &Method, path: &str) -> Response<String> {
    let (status, kind, body) = match (method, path) {
        (&Method::GET | &Method::HEAD, "/metrics") => (StatusCode::OK, METRICS_CONTENT_TYPE, metrics.text()),
        (_, "/metrics") => (StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET is served\n".to_owned()),
        _ => (StatusCode::NOT_FOUND, "text/plain", "there is /metrics here and nothing else\n".to_owned()),
    };
    let response = Response::builder().status(status).header(header::CONTENT_TYPE, kind).body(body);
    response.expect("a status, a known header and a text make a response")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_page_and_it_is_only_read() {
        let metrics = Metrics::new("berth-test");
        let page = answer(&metrics, &Method::GET, "/metrics");
        assert_eq!(page.status(), StatusCode::OK);
        assert_eq!(page.headers()[header::CONTENT_TYPE], METRICS_CONTENT_TYPE);
        assert!(page.body().contains("berth_build_info"));
        assert_eq!(answer(&metrics, &Method::POST, "/metrics").status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer(&metrics, &Method::GET, "/").status(), StatusCode::NOT_FOUND);
    }
}
