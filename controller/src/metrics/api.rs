//! Requests to the API, counted and timed on their way through.
//!
//! Counted is the head of the answer: for a call with one answer that is its outcome, for a stream its opening.

use std::task::{Context, Poll};
use std::time::Instant;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::{Request, Response};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use tonic::Code;
use tower::{Layer, Service};

/// The first bucket of the latency histogram, in seconds, and how many there are, each twice the one before: up to 16 s,
/// longer than the longest that a call waits for a leader.
const FIRST_BUCKET: f64 = 0.0005;
const BUCKETS: u16 = 16;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    method: String,
    code: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Method {
    method: String,
}

/// What is counted of the API. Cheap to clone; all clones mean the same.
#[derive(Clone, Debug)]
pub(crate) struct ApiMetrics {
    requests: Family<Outcome, Counter>,
    seconds: Family<Method, Histogram, fn() -> Histogram>,
}

impl ApiMetrics {
    /// Adds itself to the program's registry.
    pub(crate) fn new(registry: &mut Registry) -> Self {
        let histogram: fn() -> Histogram = || Histogram::new(exponential_buckets(FIRST_BUCKET, 2.0, BUCKETS));
        let counted = Self { requests: Family::default(), seconds: Family::new_with_constructor(histogram) };
        registry.register(
            "berth_api_requests",
            "Requests to the API, by method and gRPC code; a stream counts when it is opened",
            counted.requests.clone(),
        );
        registry.register(
            "berth_api_request_duration_seconds",
            "Time until a request to the API was answered, or its stream was opened",
            counted.seconds.clone(),
        );
        counted
    }

    fn count(&self, method: &str, code: Code, seconds: f64) {
        // What is not served is counted under one name: anybody could otherwise make names without end.
        let method = if code == Code::Unimplemented { "unknown" } else { method };
        let outcome = Outcome { method: method.to_owned(), code: format!("{code:?}") };
        self.requests.get_or_create(&outcome).inc();
        self.seconds.get_or_create(&Method { method: method.to_owned() }).observe(seconds);
    }
}

/// `VmService/GetVm` of `/berth.v1.VmService/GetVm`.
fn method_of(path: &str) -> &str {
    let path = path.trim_start_matches('/');
    path.strip_prefix("berth.v1.").unwrap_or(path)
}

/// The layer that counts.
#[derive(Clone, Debug)]
pub(crate) struct Counting(pub(crate) ApiMetrics);

impl<S> Layer<S> for Counting {
    type Service = Counted<S>;
    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, metrics: self.0.clone() }
    }
}

/// A service whose requests are counted.
#[derive(Clone, Debug)]
pub(crate) struct Counted<S> {
    inner: S,
    metrics: ApiMetrics,
}

impl<S, B, A> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<A>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<S::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let method = method_of(request.uri().path()).to_owned();
        let (began, metrics) = (Instant::now(), self.metrics.clone());
        let answer = self.inner.call(request);
        async move {
            let answer = answer.await?;
            // A refusal is all head; a call that goes well has its code behind its answer.
            let code = answer.headers().get("grpc-status").map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()));
            metrics.count(&method, code, began.elapsed().as_secs_f64());
            Ok(answer)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use berth_telemetry::Metrics;
    use tower::{ServiceExt, service_fn};

    use super::*;

    async fn ask(
        service: Counted<
            impl Service<Request<()>, Response = Response<()>, Error = Infallible, Future: Send + 'static>,
        >,
        path: &str,
    ) {
        let request = Request::builder().uri(path).body(()).unwrap();
        service.oneshot(request).await.unwrap();
    }

    #[tokio::test]
    async fn answers_and_refusals_are_counted_by_method_and_code() {
        let metrics = Metrics::new("berth-test");
        let counting = Counting(metrics.register(ApiMetrics::new));
        let fine = counting.layer(service_fn(async |_: Request<()>| Ok::<_, Infallible>(Response::new(()))));
        ask(fine.clone(), "/berth.v1.VmService/GetVm").await;
        ask(fine, "/berth.v1.VmService/GetVm").await;
        let refusing = |code: &'static str| {
            counting.layer(service_fn(move |_: Request<()>| async move {
                Ok::<_, Infallible>(Response::builder().header("grpc-status", code).body(()).unwrap())
            }))
        };
        ask(refusing("5"), "/berth.v1.VmService/GetVm").await;
        ask(refusing("12"), "/whatever/Somebody/Invents").await;
        let text = metrics.text();
        for line in [
            "berth_api_requests_total{method=\"VmService/GetVm\",code=\"Ok\"} 2\n",
            "berth_api_requests_total{method=\"VmService/GetVm\",code=\"NotFound\"} 1\n",
            "berth_api_requests_total{method=\"unknown\",code=\"Unimplemented\"} 1\n",
            "berth_api_request_duration_seconds_count{method=\"VmService/GetVm\"} 3\n",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
