//! `qvdclient`: shows the desktop of a virtual machine of a QVD server.

#![forbid(unsafe_code)]

mod args;
mod ask;
mod failure;
mod keyboard;
mod report;
mod settings;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use clap::{CommandFactory as _, Parser as _};
use qvd_client::list::{Choice, Chooser, Entry};
use qvd_client::trust::{Fingerprint, Fixed};
use qvd_client::tunnel::check_screen;
use qvd_client::{Client, ClientBuilder, Credentials, Error, Session};
use qvd_core::config::Config;
use tokio::signal::unix::{SignalKind, signal};

use args::{Args, SslErrors};
use failure::Failure;
use report::Reporter;

fn main() -> ExitCode {
    let started = Instant::now();
    if let Some(code) = qvd_bin_common::write_manual(Args::command, 1, std::env::args_os().skip(1)) {
        return code;
    }
    let args = match Args::try_parse() {
        Ok(args) => args.normalized(),
        Err(error) => {
            // Help and version are answers; everything else is a wrong option, for which the old clients end with 1.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::from(1) } else { ExitCode::SUCCESS };
        }
    };
    match run(&args, started) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("qvdclient: {}", qvd_core::error::chain(&failure));
            if let Some(advice) = failure.advice() {
                eprintln!("qvdclient: {advice}");
            }
            failure.exit_code()
        }
    }
}

fn run(args: &Args, started: Instant) -> Result<(), Failure> {
    start_log(args)?;
    let config = settings::load(args)?;
    for warning in config.warnings() {
        eprintln!("qvdclient: warning: {warning}");
    }
    // A second call of this process finds the first one's provider, which is the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let reporter = Reporter::new(args.quiet, args.print_timings, started);
    let screen = if args.list { None } else { Some(screen(&config, args)?) };
    // Asked for before anything runs, so that Ctrl-C at the prompt just ends the program.
    let credentials = credentials(&config, args)?;
    let client = client(&config, args, credentials, &reporter)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::System { operation: "start the runtime", source })?;
    let ended = runtime.block_on(visit(&config, args, client, screen, &reporter));
    // A question on the terminal may still wait for its answer; nobody waits for that.
    runtime.shutdown_background();
    ended
}

/// What a session needs on this side.
struct Screen {
    proxy: qvd_client::tunnel::NxProxy,
    options: qvd_client::options::SessionOptions,
}

/// Looks at what a session needs here, before anybody is asked for a password.
fn screen(config: &Config, args: &Args) -> Result<Screen, Failure> {
    let proxy = settings::nx_proxy(config, args).map_err(Failure::Listing)?;
    settings::variable("DISPLAY").ok_or(Failure::Listing(Error::NoDisplay))?;
    let keyboard = if args.keyboard.is_none() { keyboard::of_the_screen() } else { None };
    let options = settings::session_options(config, args, keyboard).map_err(Failure::Listing)?;
    Ok(Screen { proxy, options })
}

fn credentials(config: &Config, args: &Args) -> Result<Credentials, Failure> {
    if let Some(token) = &args.bearer {
        return Ok(Credentials::bearer(token.as_str()));
    }
    let login = config.text("client.user.name");
    if login.is_empty() {
        let remedy = "no user given: use -u NAME, QVDLOGIN, or client.user.name in ~/.qvd/client.conf";
        return Err(Failure::Usage(remedy.to_owned()));
    }
    let unreadable = |source| Failure::System { operation: "read the password", source };
    let password = if args.password_stdin {
        ask::password_from_stdin().map_err(unreadable)?
    } else if let Some(password) = &args.password {
        password.clone()
    } else if config.has("client.user.password") {
        config.secret("client.user.password").expose().clone()
    } else {
        ask::password(&login, &settings::host(config)?).map_err(unreadable)?
    };
    Ok(Credentials::basic(login, password))
}

fn client(
    config: &Config,
    args: &Args,
    credentials: Credentials,
    reporter: &Reporter,
) -> Result<Client, Failure> {
    let host = settings::host(config)?;
    let builder = Client::builder(&host, config.port("client.host.port"), credentials);
    let builder = settings::apply(config, args, builder)?;
    let teller = reporter.clone();
    judged(config, args, builder)?
        .on_progress(move |progress| teller.progress(&progress))
        .build()
        .map_err(Failure::Listing)
}

/// Who decides on a doubtful certificate.
fn judged(config: &Config, args: &Args, builder: ClientBuilder) -> Result<ClientBuilder, Failure> {
    if let Some(text) = &args.accept_certificate {
        let wanted: Fingerprint =
            text.parse().map_err(|e| Failure::Usage(format!("--accept-certificate: {e}")))?;
        return Ok(builder.judge(Fixed::Only(wanted)));
    }
    let what = match (args.no_check, args.ssl_errors, config.text("client.client.ssl-errors").as_str()) {
        (true, _, _) => SslErrors::Continue,
        (false, Some(what), _) => what,
        (false, None, "continue") => SslErrors::Continue,
        (false, None, "abort") => SslErrors::Abort,
        (false, None, _) => SslErrors::Ask,
    };
    Ok(match what {
        SslErrors::Continue => builder.judge(Fixed::AcceptUnlessChanged),
        SslErrors::Ask if ask::somebody_is_there() => builder.judge(ask::AtTheTerminal),
        SslErrors::Ask | SslErrors::Abort => builder.judge(Fixed::RejectAll),
    })
}

async fn visit(
    config: &Config,
    args: &Args,
    client: Client,
    screen: Option<Screen>,
    reporter: &Reporter,
) -> Result<(), Failure> {
    let ending = Ending::listen()?;
    let Some(screen) = screen else {
        let entries = ending.unless(client.list()).await?.map_err(Failure::Listing)?;
        return print_list(&entries, args.json);
    };
    if let Some(display) = settings::variable("DISPLAY") {
        ending.unless(check_screen(&display)).await?.map_err(Failure::Listing)?;
    }
    let chooser = chooser(config, args)?;
    for _ in 0..if args.twice { 2 } else { 1 } {
        let session = ending.unless(connect(&client, chooser.as_ref(), &screen, args.restart)).await?;
        let session = session.map_err(|error| blame(error, reporter))?;
        keep_slave_key(&session)?;
        let teller = reporter.clone();
        let proxy = screen.proxy.clone().on_progress(move |progress| teller.progress(&progress));
        let ended = proxy.run(session, ending.come()).await;
        if let Some(number) = ending.signal() {
            return Err(Failure::Signal(number));
        }
        if let Some(complaint) = ended.map_err(Failure::Connecting)?.complaint {
            return Err(Failure::Broken(complaint));
        }
    }
    Ok(())
}

async fn connect(
    client: &Client,
    chooser: &dyn Chooser,
    screen: &Screen,
    restart: bool,
) -> Result<Session, Error> {
    if restart {
        client.restart_and_connect(chooser, &screen.options).await
    } else {
        client.connect(chooser, &screen.options).await
    }
}

fn blame(error: Error, reporter: &Reporter) -> Failure {
    if reporter.has_asked_for_vm() { Failure::Connecting(error) } else { Failure::Listing(error) }
}

fn chooser(config: &Config, args: &Args) -> Result<Box<dyn Chooser>, Failure> {
    if let Some(text) = &args.vm_id {
        let id = text.trim().parse().map_err(|_| Failure::Usage(format!("VM id '{text}' is no number")))?;
        return Ok(Box::new(Choice::Id(id)));
    }
    if args.first {
        return Ok(Box::new(Choice::First));
    }
    if config.has("client.auto_connect.vm_id") {
        return Ok(Box::new(Choice::Id(config.integer("client.auto_connect.vm_id"))));
    }
    if ask::somebody_is_there() { Ok(Box::new(ask::FromTheList)) } else { Ok(Box::new(Choice::Only)) }
}

fn print_list(entries: &[Entry], json: bool) -> Result<(), Failure> {
    let text = if json {
        let entries: Vec<_> = entries
            .iter()
            .map(|vm| {
                serde_json::json!({"id": vm.id, "name": vm.name, "state": vm.state, "blocked": vm.blocked})
            })
            .collect();
        format!("{}\n", serde_json::Value::Array(entries))
    } else {
        ask::table(entries)
    };
    let printed = io::stdout().lock().write_all(text.as_bytes());
    printed.map_err(|source| Failure::System { operation: "print the list", source })?;
    if entries.is_empty() { Err(Failure::Listing(Error::NoVms)) } else { Ok(()) }
}

/// Leaves the session's key where the tools of the slave channel look for it.
fn keep_slave_key(session: &Session) -> Result<(), Failure> {
    let Some(key) = session.slave_key() else { return Ok(()) };
    let dir = settings::user_dir();
    let path = dir.join("slave-key");
    let written = || {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        // Made readable by its owner alone, then moved into place.
        let mut file = tempfile::NamedTempFile::new_in(&dir)?;
        file.write_all(key.expose().as_bytes())?;
        file.persist(&path).map_err(io::Error::from)
    };
    written().map(drop).map_err(|source| Failure::File {
        operation: "write",
        path: path.display().to_string(),
        source,
    })
}

/// Signals that ask the program to end.
struct Ending {
    came: tokio::sync::watch::Receiver<Option<i32>>,
}

impl Ending {
    fn listen() -> Result<Self, Failure> {
        let failed = |source| Failure::System { operation: "listen for signals", source };
        let (send, came) = tokio::sync::watch::channel(None);
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            let mut signals = signal(kind).map_err(failed)?;
            let send = send.clone();
            tokio::spawn(async move {
                if signals.recv().await.is_some() {
                    send.send_replace(Some(kind.as_raw_value()));
                }
            });
        }
        Ok(Self { came })
    }

    fn signal(&self) -> Option<i32> {
        *self.came.borrow()
    }

    /// Completes when a signal came.
    fn come(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut came = self.came.clone();
        async move {
            // The senders live as long as the runtime that polls this.
            let _ = came.wait_for(Option::is_some).await;
        }
    }

    /// Runs work to its end, or drops it when a signal comes.
    async fn unless<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        tokio::select! {
            done = work => Ok(done),
            () = self.come() => Err(Failure::Signal(self.signal().unwrap_or(0))),
        }
    }
}

/// The log for developers; without being asked for there is none.
fn start_log(args: &Args) -> Result<(), Failure> {
    if !args.debug && settings::variable("QVD_DEBUG").is_none() {
        return Ok(());
    }
    let builder = tracing_subscriber::fmt().with_env_filter("debug");
    match settings::variable("QVD_DEBUG_FILE") {
        Some(path) => {
            let file = fs::OpenOptions::new().append(true).create(true).open(&path);
            let file = file.map_err(|source| Failure::File { operation: "write", path, source })?;
            builder.with_ansi(false).with_writer(Mutex::new(file)).init();
        }
        None => builder.with_writer(io::stderr).init(),
    }
    Ok(())
}
