//! HTTP as clients speak it, and what is no request (rows 23, 24, 26–35).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::conformance::wire::{Wire, dial, eventually, plain, request, soon};
use crate::conformance::world::{Setup, World};
use crate::conformance::{Group, row};

pub(super) fn groups() -> Vec<Group> {
    let limits = || Setup::default().set("l7r.use_ssl", "0").set("l7r.limit.head.timeout", "0.5");
    vec![
        Group::new(
            Setup::default(),
            vec![
                row!(23, "header names of every answer have their exact case", row_23),
                row!(24, "no Host and bare line feeds are served, answers have CRLF", row_24),
                row!(28, "blank lines before a request are passed over", row_28),
                row!(29, "a folded header is joined by a space", row_29),
                row!(34, "pipelined requests are answered in order", row_34),
                row!(35, "header names are found in any case", row_35),
            ],
        ),
        Group::new(
            limits(),
            vec![
                row!(26, "another version or none is 505, and closed", row_26),
                row!(27, "garbage, and a TLS hello on the plain port, are 400, and closed", row_27),
                row!(30, "a line that continues nothing or has no colon is 400, and closed", row_30),
                row!(31, "a giant line is 414 and 10 000 headers are 431, in bounded memory", row_31),
                row!(
                    32,
                    "a head in crumbs ends the connection and leaves nothing (60 s shortened to 0.5 s by \
                     l7r.limit.head.timeout)",
                    row_32
                ),
                row!(33, "a request with a body is 400, and the body never a request", row_33),
            ],
        ),
    ]
}

async fn row_23(world: &World) -> Result<()> {
    let ann = world.person("cases").await?;
    let mut wire = world.wire(&ann).await?;
    let denied = wire.ask("/qvd/list_of_vm", &[]).await?;
    let length = denied.body.len();
    let head = format!(
        "HTTP/1.1 401 Unauthorized\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
         WWW-Authenticate: Basic realm=\"QVD\"\r\n\r\n"
    );
    ensure!(denied.head == head, "{denied:?}");
    let list = wire.ask("/qvd/list_of_vm", &[&ann.auth()]).await?;
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        list.body.len()
    );
    ensure!(list.head == head, "{list:?}");
    // X-QVD-VM-Info and X-QVD-Slave-Key are compared byte by byte wherever a row connects.
    Ok(())
}

async fn row_24(world: &World) -> Result<()> {
    let ann = world.person("bare").await?;
    let mut wire = world.wire(&ann).await?;
    wire.send(format!("GET /qvd/list_of_vm HTTP/1.1\n{}\n\n", ann.auth().trim())).await?;
    let answer = wire.answer().await?;
    answer.expect(200, "bare-desk")?;
    ensure!(!answer.head.replace("\r\n", "").contains(['\n', '\r']), "line ends: {answer:?}");
    Ok(())
}

async fn row_28(world: &World) -> Result<()> {
    let mut wire = Wire::connect([127, 0, 0, 1].into(), world.router().address).await?;
    for blank in ["\r\n", "\n\n", "  \r\n\t\n"] {
        wire.send(format!("{blank}GET /qvd/ping HTTP/1.1\r\n\r\n")).await?;
        wire.answer().await?.expect(200, "I am alive!")?;
    }
    Ok(())
}

async fn row_29(world: &World) -> Result<()> {
    let ann = world.person("folded").await?;
    let mut wire = world.wire(&ann).await?;
    let folded = ann.auth().replacen("Basic ", "Basic\r\n ", 1);
    wire.ask("/qvd/list_of_vm", &[&folded]).await?.expect(200, "folded-desk")
}

async fn row_34(world: &World) -> Result<()> {
    let ann = world.person("piped").await?;
    let mut wire = world.wire(&ann).await?;
    wire.send([request("/qvd/ping", &[]), request("/qvd/list_of_vm", &[&ann.auth()])].concat()).await?;
    wire.answer().await?.expect(200, "I am alive!\r\n")?;
    wire.answer().await?.expect(200, "piped-desk")
}

async fn row_35(world: &World) -> Result<()> {
    let ann = world.person("lower").await?;
    let mut wire = world.wire(&ann).await?;
    let lower = ann.auth().replacen("Authorization", "authorization", 1);
    wire.ask("/qvd/list_of_vm", &[&lower]).await?.expect(200, "lower-desk")
}

/// Bytes, and behind them a request that must never be answered.
async fn refused(world: &World, bytes: &[u8], status: u16) -> Result<()> {
    let followed = [bytes, b"\r\n\r\nGET /qvd/ping HTTP/1.1\r\n\r\n"].concat();
    let answer = plain([127, 0, 0, 1].into(), world.router().address, &followed).await?;
    let answer = String::from_utf8(answer).context("no text")?;
    let shown = String::from_utf8_lossy(bytes).chars().take(60).collect::<String>();
    ensure!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown:?}: {answer}");
    ensure!(answer.matches("HTTP/1.1 ").count() == 1, "not closed behind {shown:?}: {answer}");
    let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
    ensure!(head.contains("\r\nContent-Type: text/plain"), "{answer}");
    ensure!(head.contains(&format!("\r\nContent-Length: {}", body.len())) && !body.is_empty(), "{answer}");
    Ok(())
}

async fn row_26(world: &World) -> Result<()> {
    for line in ["GET /qvd/ping HTTP/1.0", "GET /qvd/ping", "GET /qvd/ping HTTP/2", "GET /qvd/ping http/1.1"]
    {
        refused(world, line.as_bytes(), 505).await?;
    }
    Ok(())
}

async fn row_27(world: &World) -> Result<()> {
    refused(world, b"GARBAGE", 400).await?;
    // A client that found the wrong port waits for the server's hello and sends nothing more.
    let config = crate::conformance::wire::believing(None, &[])?;
    let name = "localhost".try_into().context("a name")?;
    let mut hello = Vec::new();
    rustls::ClientConnection::new(config.into(), name)?.write_tls(&mut hello)?;
    let answer = plain([127, 0, 0, 1].into(), world.router().address, &hello).await?;
    ensure!(answer.starts_with(b"HTTP/1.1 400 "), "{:?}", String::from_utf8_lossy(&answer));
    Ok(())
}

async fn row_30(world: &World) -> Result<()> {
    refused(world, b"GET /qvd/ping HTTP/1.1\r\n folded", 400).await?;
    refused(world, b"GET /qvd/ping HTTP/1.1\r\nno colon", 400).await
}

async fn row_31(world: &World) -> Result<()> {
    let before = world.router().memory()?;
    let line = format!("GET /{} HTTP/1.1", "a".repeat(1 << 20));
    let headers = format!("GET /qvd/ping HTTP/1.1\r\n{}", "X: y\r\n".repeat(10_000));
    let grown = async || {
        for _ in 0..20 {
            refused(world, line.as_bytes(), 414).await?;
            refused(world, headers.as_bytes(), 431).await?;
        }
        anyhow::Ok(world.router().memory()?.saturating_sub(before))
    };
    let grown = grown().await?;
    ensure!(grown < 4 << 20, "20 MiB of heads cost {grown} bytes of memory");
    Ok(())
}

async fn row_32(world: &World) -> Result<()> {
    let before = world.router().descriptors()?;
    let crumbs = |number: u8| {
        let address = world.router().address;
        async move {
            let (mut read, mut write) = dial([127, 3, 2, number].into(), address).await?.into_split();
            let feeding = async {
                let mut beat = tokio::time::interval(Duration::from_millis(50));
                for byte in b"GET /qvd/ping HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'y')) {
                    beat.tick().await;
                    if write.write_all(&[*byte]).await.is_err() {
                        break;
                    }
                }
                std::future::pending::<()>().await
            };
            let mut rest = Vec::new();
            tokio::select! {
                ended = soon("the end of the connection", read.read_to_end(&mut rest)) => drop(ended?),
                () = feeding => {}
            }
            anyhow::Ok(())
        }
    };
    let mut loris = tokio::task::JoinSet::new();
    (1..=20).for_each(|number| drop(loris.spawn(crumbs(number))));
    while let Some(ended) = loris.join_next().await {
        ended.context("a client broke off")??;
    }
    eventually("their descriptors to be given back", async || {
        Ok((world.router().descriptors()? <= before).then_some(()))
    })
    .await
}

async fn row_33(world: &World) -> Result<()> {
    for header in ["Content-Length: 5", "Transfer-Encoding: chunked", "content-length:5"] {
        refused(world, format!("GET /qvd/ping HTTP/1.1\r\n{header}").as_bytes(), 400).await?;
    }
    Ok(())
}
