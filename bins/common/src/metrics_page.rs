//! What the router counts, for Prometheus: `/metrics` at `l7r.metrics.address`, over plain HTTP.
//!
//! Whoever can reach the address can read it, so it is for the node itself or for a network of administrators; no user,
//! machine or address of a client is told. A router that is succeeded leaves the address to the next one.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

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
use qvd_core::ErrorKind;
use qvd_core::config::Config;
use qvd_l7r::{Figure, RouterHandle, Snapshot, Times};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{JoinHandle, JoinSet};

use crate::Failure;

/// The page of one router.
#[derive(Clone, Copy, Debug)]
pub struct MetricsPage(SocketAddr);

/// It ends with this.
#[derive(Debug)]
pub struct ServedPage(JoinHandle<()>);

impl MetricsPage {
    /// What the configuration wants, if anything.
    ///
    /// # Errors
    ///
    /// What is there is no address with a port.
    pub fn wanted(config: &Config) -> Result<Option<Self>, Failure> {
        let text = config.text(KEY);
        if text.is_empty() {
            return Ok(None);
        }
        text.parse().map(|address| Some(Self(address))).map_err(|_| {
            let text = format!("'{KEY}' is '{text}'; it must be an address with a port, as 127.0.0.1:9253");
            Failure::new(ErrorKind::Invalid, text)
        })
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
                // At first the router before this one may still be about to leave it.
                Err(error) => {
                    failures += 1;
                    if failures == TOLD_AT {
                        tracing::warn!(%address, "metrics wait for their address ({KEY}): {error}");
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    };
    let listener = tokio::select! {
        listener = listening => listener,
        () = router.gives_way() => return,
    };
    tracing::info!(%address, "metrics can be read");
    // The next router waits for the address, and a page is written in no time: nobody is waited for.
    tokio::select! {
        () = answer(&listener, &router) => {}
        () = router.gives_way() => {}
    }
}

/// Few at once and not for long: whoever can reach the address must not be able to use up the router's descriptors.
async fn answer(listener: &TcpListener, router: &RouterHandle) {
    let places = Arc::new(Semaphore::new(MOST_READERS));
    let mut readers = JoinSet::new();
    loop {
        // Never closed, so that there always comes one.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((reader, _)) => {
                let router = router.clone();
                readers.spawn(async move {
                    let _place = place;
                    let _ = tokio::time::timeout(PATIENCE, converse(reader, &router)).await;
                });
            }
            Err(error) => {
                tracing::warn!("a reader of the metrics is not accepted: {error}");
                tokio::time::sleep(RETRY).await;
            }
        }
        while readers.try_join_next().is_some() {}
    }
}

async fn converse(reader: TcpStream, router: &RouterHandle) -> hyper::Result<()> {
    let site = service_fn(async |request| Ok::<_, Infallible>(reply(&request, router)));
    http1::Builder::new().serve_connection(TokioIo::new(reader), site).await
}

fn reply<B>(request: &hyper::Request<B>, router: &RouterHandle) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    match (request.uri().path(), request.method()) {
        ("/metrics", &Method::GET | &Method::HEAD) => {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(FORMAT));
            *response.body_mut() = Full::new(page(router.metrics()).into());
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
    use super::*;

    #[test]
    fn an_address_has_a_port() {
        let config = |text: &str| Config::builder().set(KEY, text).build().unwrap();
        assert!(MetricsPage::wanted(&config("")).unwrap().is_none());
        assert_eq!(
            MetricsPage::wanted(&config("[::1]:9253")).unwrap().unwrap().0,
            "[::1]:9253".parse().unwrap()
        );
        let refused = MetricsPage::wanted(&config("localhost")).unwrap_err().to_string();
        assert!(refused.contains("'l7r.metrics.address' is 'localhost'"), "{refused}");
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
