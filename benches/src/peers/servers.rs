//! HAProxy and nginx, set up for the same work.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::{Certificate, Entry, Peer, Running, find};
use crate::place::{Place, free_port};

/// HAProxy by its three entries, which are one process.
#[derive(Debug)]
pub struct HaProxy {
    /// TLS to plain TCP.
    pub tls: Peer,
    /// TCP to TCP.
    pub plain: Peer,
    /// TLS, then an answer from its own memory.
    pub answering: Peer,
}

/// Starts HAProxy with so many threads. `None` when it is not installed.
///
/// # Errors
///
/// When it is there and does not start.
pub async fn haproxy(
    place: &Place,
    dir: &Path,
    desktop: u16,
    certificate: &Certificate,
    threads: usize,
) -> Result<Option<HaProxy>> {
    let Some(program) = find("haproxy") else { return Ok(None) };
    let ports = [free_port()?, free_port()?, free_port()?];
    let [tls, plain, answering] = ports.map(|port| SocketAddr::new(place.proxy(), port));
    let pem = dir.join(format!("haproxy-{}.pem", tls.port()));
    certificate.write(&pem)?;
    let settings = pem.with_extension("cfg");
    let text = format!(
        "global\n  nbthread {threads}\n  maxconn 9400\n  tune.bufsize 16384\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
         timeout client 1h\n  timeout server 1h\nfrontend tls\n  bind {tls} ssl crt {pem}\n  default_backend desktop\n\
         frontend plain\n  bind {plain}\n  default_backend desktop\nfrontend answering\n  mode http\n  \
         bind {answering} ssl crt {pem}\n  monitor-uri /qvd/ping\n\
         backend desktop\n  server vm {}\n",
        SocketAddr::new(place.desktop(), desktop),
        pem = pem.display()
    );
    fs::write(&settings, text).context("cannot write HAProxy's settings")?;
    let mut command = place.command(program);
    command.arg("-db").arg("-f").arg(&settings);
    let log = pem.with_extension("log");
    let child = Running::start(command, &log)?;
    place.listening(tls.port(), "HAProxy", &log).await?;
    let pids = vec![child.id()];
    Ok(Some(HaProxy {
        tls: Peer::new("HAProxy", tls, Entry::Tls, pids.clone(), Some(child)),
        plain: Peer::new("HAProxy plain", plain, Entry::Plain, pids.clone(), None),
        answering: Peer::new("HAProxy", answering, Entry::Tls, pids, None),
    }))
}

/// Starts nginx with one worker. `None` when it or its stream module is not installed.
///
/// # Errors
///
/// When it is there and does not start.
pub async fn nginx(
    place: &Place,
    dir: &Path,
    desktop: u16,
    certificate: &Certificate,
) -> Result<Option<Peer>> {
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let Some(program) = find("nginx") else { return Ok(None) };
    if !Path::new(module).exists() {
        return Ok(None);
    }
    let address = SocketAddr::new(place.proxy(), free_port()?);
    let dir = dir.join(format!("nginx-{}", address.port()));
    fs::create_dir_all(&dir).context("cannot make a directory for nginx")?;
    let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    fs::write(&cert, &certificate.cert).context("cannot write a certificate")?;
    fs::write(&key, &certificate.key).context("cannot write a key")?;
    let run = dir.display();
    let text = format!(
        "load_module {module};\nworker_processes 1;\nworker_rlimit_nofile 20000;\ndaemon off;\npid {run}/nginx.pid;\n\
         error_log {run}/nginx.err;\nevents {{ worker_connections 19000; }}\nstream {{\n  server {{\n    \
         listen {address} ssl;\n    ssl_certificate {};\n    ssl_certificate_key {};\n    \
         ssl_protocols TLSv1.2 TLSv1.3;\n    proxy_pass {};\n    proxy_timeout 1h;\n  }}\n}}\n",
        cert.display(),
        key.display(),
        SocketAddr::new(place.desktop(), desktop)
    );
    let settings = dir.join("nginx.conf");
    fs::write(&settings, text).context("cannot write nginx's settings")?;
    let mut command = place.command(program);
    command.arg("-c").arg(&settings).arg("-p").arg(&dir);
    let log = dir.join("nginx.log");
    let child = Running::start(command, &log)?;
    place.listening(address.port(), "nginx", &log).await?;
    let workers = children(child.id());
    Ok(Some(Peer::new("nginx stream", address, Entry::Tls, workers, Some(child))))
}

fn children(pid: i32) -> Vec<i32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect()
}
