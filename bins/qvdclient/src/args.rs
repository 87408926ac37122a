//! The command line: the options of the 3.5 client, each with a long form, and a few more.

use std::convert::Infallible;
use std::path::PathBuf;

use clap::{ArgAction, Parser, ValueEnum};
use qvd_core::Secret;

/// Shows the desktop of a virtual machine of a QVD server.
///
/// Options win over the environment, the environment over the configuration files: /etc/qvd/client.conf,
/// ~/.qvd/client.conf, ./qvd-client.conf.
#[derive(Debug, Parser)]
#[command(
    name = "qvdclient",
    version,
    disable_help_flag = true,
    disable_version_flag = true,
    max_term_width = 100,
    after_help = AFTER_HELP
)]
pub(crate) struct Args {
    /// Server; HOST or HOST:PORT
    #[arg(short = 'h', long, env = "QVDHOST", value_name = "HOST")]
    pub(crate) host: Option<String>,

    /// Port of the server [default: 8443]
    #[arg(short = 'p', long, env = "QVDPORT", value_name = "PORT")]
    pub(crate) port: Option<String>,

    /// User name
    #[arg(short = 'u', long, alias = "username", env = "QVDLOGIN", value_name = "NAME")]
    pub(crate) user: Option<String>,

    /// Password. Other users of this machine can read it in the process list: better type it when asked, or use
    /// QVDPASSWORD or --password-stdin
    #[arg(short = 'w', long, env = "QVDPASSWORD", hide_env_values = true, value_name = "PASSWORD", value_parser = secret)]
    pub(crate) password: Option<Secret<String>>,

    /// Read the password from the first line of standard input
    #[arg(long, conflicts_with = "bearer")]
    pub(crate) password_stdin: bool,

    /// Log in with this token instead of a password
    #[arg(short = 'b', long, env = "QVDBEARER", hide_env_values = true, value_name = "TOKEN", value_parser = secret)]
    pub(crate) bearer: Option<Secret<String>>,

    /// Size of the desktop, like 1024x768
    #[arg(short = 'g', long, value_name = "WxH")]
    pub(crate) geometry: Option<String>,

    /// Fill the whole screen
    #[arg(short = 'f', long)]
    pub(crate) fullscreen: bool,

    /// Kind of network: modem, isdn, adsl, wan, lan, local, or a rate such as 10m
    #[arg(long, value_name = "LINK")]
    pub(crate) link: Option<String>,

    /// Keyboard, like pc105/es [default: that of the screen]
    #[arg(short = 'K', long, value_name = "MODEL/LAYOUT")]
    pub(crate) keyboard: Option<String>,

    /// List the virtual machines and do not connect
    #[arg(short = 'l', long)]
    pub(crate) list: bool,

    /// With --list: print JSON
    #[arg(long, requires = "list")]
    pub(crate) json: bool,

    /// Connect to the virtual machine with this id
    #[arg(short = 's', long, env = "QVDVMID", value_name = "ID")]
    pub(crate) vm_id: Option<String>,

    /// Connect to the first virtual machine of the list
    #[arg(short = 'o', long, conflicts_with = "list")]
    pub(crate) first: bool,

    /// Stop the virtual machine first, so that it starts afresh
    #[arg(short = 'r', long, conflicts_with = "list")]
    pub(crate) restart: bool,

    /// Connect a second time when the first session has ended
    #[arg(short = '2', long, conflicts_with = "list")]
    pub(crate) twice: bool,

    /// Accept the certificate with this SHA-256 fingerprint, and remember it
    #[arg(long, value_name = "FINGERPRINT")]
    pub(crate) accept_certificate: Option<String>,

    /// Accept any certificate, this time. One that has changed since it was remembered is refused all the same
    #[arg(short = 'n', long, conflicts_with_all = ["accept_certificate", "ssl_errors"])]
    pub(crate) no_check: bool,

    /// What to do about a doubtful certificate [default: ask]
    #[arg(long, value_enum, value_name = "WHAT", conflicts_with = "accept_certificate")]
    pub(crate) ssl_errors: Option<SslErrors>,

    /// Do not encrypt, for a server that was set up so
    #[arg(long)]
    pub(crate) no_ssl: bool,

    /// Certificate to show to the server, PEM
    #[arg(short = 'c', long, requires = "client_key", value_name = "FILE")]
    pub(crate) client_cert: Option<PathBuf>,

    /// Key of that certificate, PEM
    #[arg(short = 'k', long, requires = "client_cert", value_name = "FILE")]
    pub(crate) client_key: Option<PathBuf>,

    /// NX options, like nx/nx,data=0,pack=nopack:0
    #[arg(short = 'x', long, value_name = "OPTIONS")]
    pub(crate) nx_options: Option<String>,

    /// Set a configuration key for this run
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,

    /// Print how long each step took, as lines "timing STEP SECONDS" on standard output
    #[arg(long)]
    pub(crate) print_timings: bool,

    /// Do not tell what goes on
    #[arg(short = 'q', long)]
    pub(crate) quiet: bool,

    /// Log what goes on inside, to standard error or to the file that QVD_DEBUG_FILE names
    #[arg(short = 'd', long)]
    pub(crate) debug: bool,

    /// Print the version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,

    /// Print this help
    #[arg(short = '?', long, action = ArgAction::HelpShort)]
    help: Option<bool>,
}

/// What to do about a doubtful certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SslErrors {
    /// Show it and ask; refuse where there is nobody to ask
    Ask,
    /// Accept it this time, unless it has changed
    Continue,
    /// Refuse it
    Abort,
}

const AFTER_HELP: &str = "\
Environment: QVDHOST, QVDPORT, QVDLOGIN, QVDPASSWORD, QVDBEARER, QVDVMID; QVD_DEBUG and QVD_DEBUG_FILE; DISPLAY and
XAUTHORITY.
An empty variable counts as absent.

Exit status:
  0    the session ended, or the list was printed
  1    an option or a setting is wrong
  2    the user has no virtual machine
  5    no list: server not reached, certificate not accepted, login refused
  6    no virtual machine chosen, or the chosen one is not on the list
  7    the server refused the connection to the virtual machine, or gave up
  8    the desktop did not come up on the screen, or its connection broke
  9    something is missing here: nxproxy, DISPLAY, a readable certificate memory
  128+N  ended by signal N, in order";

impl Args {
    /// What the user wrote, empty texts taken for absent ones.
    pub(crate) fn normalized(mut self) -> Self {
        let texts = [&mut self.host, &mut self.port, &mut self.user, &mut self.vm_id];
        for text in texts {
            text.take_if(|text| text.is_empty());
        }
        for secret in [&mut self.password, &mut self.bearer] {
            secret.take_if(|secret| secret.expose().is_empty());
        }
        self
    }
}

fn secret(text: &str) -> Result<Secret<String>, Infallible> {
    Ok(Secret::new(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn every_option_of_the_old_client_is_understood() {
        Args::command().debug_assert();
        let line = "qvdclient -h vdi -p 8443 -u alice -w secret -g 800x600 -f -o -n -x nx/nx,data=0:0 -K pc105/en \
                    -c a.crt -k a.key -r -2 -s 7 -d";
        let args = Args::try_parse_from(line.split_whitespace()).unwrap().normalized();
        assert_eq!(args.host.as_deref(), Some("vdi"));
        assert_eq!(args.password.as_ref().map(|word| word.expose().as_str()), Some("secret"));
        let bearer = Args::try_parse_from(["qvdclient", "-b", "secret"]).unwrap();
        assert!(!format!("{args:?}{bearer:?}").contains("secret"));
        let empty = Args::try_parse_from(["qvdclient", "-w", "", "-b", "", "-h", ""]).unwrap().normalized();
        assert!(empty.password.is_none() && empty.bearer.is_none() && empty.host.is_none());
        assert!(args.fullscreen && args.first && args.no_check && args.restart && args.twice && args.debug);
        assert!(Args::try_parse_from(["qvdclient", "-l", "--json"]).unwrap().json);
        for only_prints in ["-?", "-v", "--help"] {
            let error = Args::try_parse_from(["qvdclient", only_prints]).unwrap_err();
            assert_eq!(error.exit_code(), 0, "{only_prints}");
        }
        for wrong in [["-c", "a.crt"].as_slice(), &["--json"], &["-Z"], &["-l", "-o"]] {
            let line = ["qvdclient"].iter().chain(wrong);
            assert_ne!(Args::try_parse_from(line).unwrap_err().exit_code(), 0, "{wrong:?}");
        }
    }

    #[test]
    fn the_help_names_every_exit_status() {
        let help = Args::command().render_help().to_string();
        for status in ["\n  0 ", "\n  1 ", "\n  2 ", "\n  5 ", "\n  6 ", "\n  7 ", "\n  8 ", "\n  9 "] {
            assert!(help.contains(status), "{status:?} in {help}");
        }
    }
}
