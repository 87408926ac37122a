//! `qvdclient`: shows the desktop of a virtual machine of a QVD server.

#![forbid(unsafe_code)]
// The standard macros panic when nobody reads any more.
#![deny(clippy::print_stderr)]

mod args;
mod ask;
mod failure;
mod keyboard;
mod report;
mod settings;
mod terminal;

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use clap::{CommandFactory as _, Parser as _};
use qvd_client::list::{Choice, Chooser, Entry};
use qvd_client::options::SessionOptions;
use qvd_client::trust::{Fingerprint, Fixed};
use qvd_client::tunnel::{NxProxy, Screen};
use qvd_client::{Client, ClientBuilder, Credentials, Error, Session};
use qvd_core::config::Config;
use qvd_core::error::chain;
use tokio::signal::unix::{SignalKind, signal};

use args::{Args, SslErrors};
use failure::Failure;
use report::{Reporter, say};

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
            say(format_args!("qvdclient: {}", chain(&failure)));
            if let Some(advice) = failure.advice() {
                say(format_args!("qvdclient: {advice}"));
            }
            failure.exit_code()
        }
    }
}

fn run(args: &Args, started: Instant) -> Result<(), Failure> {
    start_log(args)?;
    let config = settings::load(args)?;
    for warning in config.warnings().iter().chain(&settings::without_effect(&config)) {
        say(format_args!("qvdclient: warning: {warning}"));
    }
    // A second call of this process finds the first one's provider, which is the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let reporter = Reporter::new(args.quiet, args.print_timings, started);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Failure::System { operation: "start the runtime", source })?;
    let ended = runtime.block_on(visit(&config, args, &reporter));
    // A question on the terminal may still wait for its answer; nobody waits for that.
    runtime.shutdown_background();
    ended
}

/// What a session needs on this side.
struct Here {
    proxy: NxProxy,
    options: SessionOptions,
    // Its door stays open as long as this lives.
    _screen: Screen,
}

/// Looks at what a session needs here, before anybody is asked for a password.
async fn here(config: &Config, args: &Args) -> Result<Here, Failure> {
    let proxy = settings::nx_proxy(config, args).map_err(Failure::Listing)?;
    let display = settings::variable("DISPLAY").ok_or(Failure::Listing(Error::NoDisplay))?;
    let screen = Screen::open(&display, &settings::x_authority()).await.map_err(Failure::Listing)?;
    let keyboard = if args.keyboard.is_none() { keyboard::of_the_screen().await } else { None };
    let options = settings::session_options(config, args, keyboard).map_err(Failure::Listing)?;
    Ok(Here { proxy: proxy.display(screen.display()), options, _screen: screen })
}

async fn credentials(config: &Config, args: &Args) -> Result<Credentials, Failure> {
    if let Some(token) = &args.bearer {
        return Ok(Credentials::bearer(token.expose().as_str()));
    }
    let login = config.text("client.user.name");
    if login.is_empty() {
        let remedy = "no user given: use -u NAME, QVDLOGIN, or client.user.name in ~/.qvd/client.conf";
        return Err(Failure::Usage(remedy.to_owned()));
    }
    let password = if args.password_stdin {
        let unreadable = |source| Failure::System { operation: "read the password", source };
        ask::password_from_stdin().await.map_err(unreadable)?
    } else if let Some(password) = &args.password {
        password.expose().clone()
    } else if config.has("client.user.password") {
        config.secret("client.user.password").expose().clone()
    } else {
        let operation = "ask for the password on the terminal (--password-stdin and QVDPASSWORD need none)";
        let unanswered = |source| Failure::System { operation, source };
        ask::password(&login, &settings::host(config)?).await.map_err(unanswered)?
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

async fn visit(config: &Config, args: &Args, reporter: &Reporter) -> Result<(), Failure> {
    // First of all, so that a signal finds nothing half done, the terminal for one.
    let ending = Ending::listen()?;
    let here = if args.list { None } else { Some(ending.unless(here(config, args)).await??) };
    let credentials = ending.unless(credentials(config, args)).await??;
    let client = client(config, args, credentials, reporter)?;
    let Some(here) = here else {
        let entries = ending.unless(client.list()).await?.map_err(Failure::Listing)?;
        return print_list(&entries, args.json);
    };
    let chooser = chooser(config, args)?;
    let teller = reporter.clone();
    let proxy = here.proxy.clone().on_progress(move |progress| teller.progress(&progress));
    for _ in 0..if args.twice { 2 } else { 1 } {
        let local_end = proxy.prepare().map_err(Failure::Listing)?;
        let session = ending.unless(connect(&client, chooser.as_ref(), &here.options, args.restart)).await?;
        let session = session.map_err(|error| blame(error, reporter))?;
        if let Err(failure) = keep_slave_key(&session) {
            // The desktop is worth more than the tools beside it.
            say(format_args!(
                "qvdclient: warning: no folders or printers in this session: {}",
                chain(&failure)
            ));
        }
        let ended = local_end.run(session, ending.come()).await;
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
    options: &SessionOptions,
    restart: bool,
) -> Result<Session, Error> {
    if restart {
        client.restart_and_connect(chooser, options).await
    } else {
        client.connect(chooser, options).await
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
        let kinds =
            [SignalKind::interrupt(), SignalKind::quit(), SignalKind::terminate(), SignalKind::hangup()];
        for kind in kinds {
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
    // What cannot be logged is not complained about: the complaint would go where nobody reads either.
    let builder = tracing_subscriber::fmt().with_env_filter("debug").log_internal_errors(false);
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
