//! What the router counts, for Prometheus: `/metrics` at `l7r.metrics.address`, over plain HTTP.
//!
//! Whoever can reach the address can read it, so it is for the node itself or for a network of administrators; no user,
//! machine or address of a client is told. A router that is succeeded leaves the address to the next one.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Response, StatusCode};
use hyper_util::rt::TokioIo;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use qvd_core::config::Config;
use qvd_l7r::{Figure, RouterHandle, Snapshot, Times};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// The page of one router.
#[derive(Clone, Copy, Debug)]
pub struct MetricsPage(SocketAddr);

/// It ends with this.
#[derive(Debug)]
pub struct ServedPage(JoinHandle<()>);

impl MetricsPage {
    /// What the configuration wants, if anything.
    pub fn wanted(config: &Config) -> Option<Self> {
        config.socket(KEY).map(Self)
    }

    /// Serves it until the router gives up its place, from when the address is free. Must be called within a runtime.
    pub fn serve(self, router: RouterHandle) -> ServedPage {
        ServedPage(tokio::spawn(serve(self.0, router)))
    }
}

impl Drop for ServedPage {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn serve(address: SocketAddr, router: RouterHandle) {
    let listening = async {
        let mut failures = 0_u64;
        loop {
            match TcpListener::bind(address).await {
                Ok(listener) => return listener,
                // At first the router before this one may still be about to leave it. The system tells nobody when an
                // address is free.
                Err(error) => {
                    failures += 1;
                    if failures == TOLD_AT {
                        tracing::warn!(%address, "metrics wait for their address ({KEY}): {error}");
                    }
                }
            }
            sleep(RETRY).await;
        }
    };
    let listener = tokio::select! {
        listener = listening => listener,
        () = router.gives_way() => return,
    };
    tracing::info!(%address, "metrics can be read");
    // The next router waits for the address, and a page is written in no time: nobody is waited for.
    let look = || router.metrics();
    tokio::select! {
        () = answer(&listener, look, PATIENCE) => {}
        () = router.gives_way() => {}
    }
}

/// Few at once and not for long: whoever can reach the address must not be able to use up the router's descriptors.
async fn answer(listener: &TcpListener, look: impl Fn() -> Snapshot, patience: Duration) {
    let mut readers = FuturesUnordered::new();
    loop {
        tokio::select! {
            Some(()) = readers.next() => {}
            reader = next_reader(listener), if readers.len() < MOST_READERS => readers.push(async {
                let _ = timeout(patience, converse(reader, &look)).await;
            }),
        }
    }
}

async fn next_reader(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((reader, _)) => return reader,
            Err(error) => tracing::warn!("a reader of the metrics is not accepted: {error}"),
        }
        // No event says that descriptors are free again.
        sleep(RETRY).await;
    }
}

async fn converse(reader: TcpStream, look: &impl Fn() -> Snapshot) -> hyper::Result<()> {
    let site = service_fn(async |request| Ok::<_, Infallible>(reply(&request, look)));
    http1::Builder::new().serve_connection(TokioIo::new(reader), site).await
}

fn reply<B>(request: &hyper::Request<B>, look: impl Fn() -> Snapshot) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    match (request.uri().path(), request.method()) {
        ("/metrics", &Method::GET | &Method::HEAD) => {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(FORMAT));
            *response.body_mut() = Full::new(page(look()).into());
        }
        ("/metrics", _) => *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED,
        _ => *response.status_mut() = StatusCode::NOT_FOUND,
    }
    response
}

fn page(snapshot: Snapshot) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Reading(snapshot)));
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = encode(&mut text, &registry);
    text
}

/// One look at the counters.
#[derive(Debug)]
struct Reading(Snapshot);

impl Collector for Reading {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Figure { name, what, value, .. } in self.0.figures() {
            let (name, what) = (full(name), what.trim_end_matches('.'));
            // The format adds what a counter ends in.
            match name.strip_suffix("_total") {
                Some(name) => {
                    let told = encoder.encode_descriptor(name, what, None, MetricType::Counter)?;
                    ConstCounter::new(value).encode(told)?;
                }
                None => {
                    let told = encoder.encode_descriptor(&name, what, None, MetricType::Gauge)?;
                    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX)).encode(told)?;
                }
            }
        }
        let Times { counts, sum, .. } = self.0.connect_seconds;
        let limits = Times::LIMITS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = limits.zip(counts).collect();
        let what = "How long connects took, from when their checks were passed to the 101";
        let mut told =
            encoder.encode_descriptor("qvd_l7r_connect_seconds", what, None, MetricType::Histogram)?;
        told.encode_histogram::<NoLabelSet>(sum.as_secs_f64(), counts.iter().sum(), &buckets, None)
    }
}

/// Logins are counted under the same name wherever they happen.
fn full(name: &str) -> String {
    if name.starts_with("auth_") { format!("qvd_{name}") } else { format!("qvd_l7r_{name}") }
}

const KEY: &str = "l7r.metrics.address";

const FORMAT: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Connections at the same time; more wait.
const MOST_READERS: usize = 8;

/// How long one of them lasts at most.
const PATIENCE: Duration = Duration::from_secs(10);

/// Failures to listen until that is told.
const TOLD_AT: u64 = 5;

/// Between tries to listen.
const RETRY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    async fn ask(stream: &mut TcpStream, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut heard = String::new();
        stream.read_to_string(&mut heard).await.unwrap();
        heard
    }

    /// Runs readers against a page that leaves them after this time.
    async fn serving<F: Future>(patience: Duration, readers: impl FnOnce(SocketAddr) -> F) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let readers = readers(listener.local_addr().unwrap());
        tokio::select! {
            () = answer(&listener, Snapshot::default, patience) => {}
            _ = readers => {}
        }
    }

    #[tokio::test]
    async fn who_comes_when_all_places_are_taken_waits_for_one() {
        serving(Duration::from_secs(3600), async |address| {
            let mut readers = Vec::new();
            for _ in 0..MOST_READERS {
                readers.push(TcpStream::connect(address).await.unwrap());
            }
            let mut late = TcpStream::connect(address).await.unwrap();
            let waiting = ask(&mut late, "/metrics");
            tokio::pin!(waiting);
            // Those who came before are answered meanwhile.
            for reader in &mut readers[1..] {
                let mut first = [0; 12];
                reader.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\n\r\n").await.unwrap();
                tokio::select! {
                    biased;
                    answer = &mut waiting => panic!("all places are taken: {answer}"),
                    read = reader.read_exact(&mut first) => { read.unwrap(); }
                }
                assert_eq!(&first, b"HTTP/1.1 200");
            }
            drop(readers.swap_remove(0));
            assert!(waiting.await.ends_with("# EOF\n"));
        })
        .await;
    }

    #[tokio::test]
    async fn a_silent_reader_is_left() {
        serving(Duration::from_millis(20), async |address| {
            let mut silent = TcpStream::connect(address).await.unwrap();
            assert_eq!(silent.read(&mut [0]).await.unwrap(), 0);
        })
        .await;
    }

    #[test]
    fn nothing_but_the_page_is_there() {
        let reply = |method: &str, path: &str| {
            let request = hyper::Request::builder().method(method).uri(path).body(()).unwrap();
            reply(&request, Snapshot::default).status().as_u16()
        };
        assert_eq!([reply("GET", "/metrics"), reply("HEAD", "/metrics?x=1")], [200, 200]);
        assert_eq!(
            [reply("POST", "/metrics"), reply("GET", "/"), reply("GET", "/metrics/")],
            [405, 404, 404]
        );
    }

    #[test]
    fn a_page_has_counters_gauges_and_times() {
        let mut snapshot = Snapshot::default();
        snapshot.sessions = 2;
        snapshot.auth_ok_total = 5;
        snapshot.connect_seconds.counts[1] = 3;
        snapshot.connect_seconds.counts[12] = 1;
        let text = page(snapshot);
        for line in [
            "# TYPE qvd_l7r_sessions gauge",
            "qvd_l7r_sessions 2",
            "# TYPE qvd_auth_ok counter",
            "qvd_auth_ok_total 5",
            "qvd_l7r_connect_seconds_bucket{le=\"0.0025\"} 0",
            "qvd_l7r_connect_seconds_bucket{le=\"0.01\"} 3",
            "qvd_l7r_connect_seconds_bucket{le=\"+Inf\"} 4",
            "qvd_l7r_connect_seconds_count 4",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "no '{line}' in:\n{text}");
        }
    }
}
