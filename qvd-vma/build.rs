//! Builds the library that is preloaded into nxagent; only the agent carries it.

use std::env;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    println!("cargo:rerun-if-changed=guard");
    println!("cargo:rerun-if-env-changed=CC");
    if env::var_os("CARGO_FEATURE_AGENT").is_none() {
        return ExitCode::SUCCESS;
    }
    match build_guard() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn build_guard() -> Result<(), String> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo gave no OUT_DIR")?);
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let status = Command::new(&compiler)
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-s", "-o"])
        .arg(out.join("nxagent-guard.so"))
        .arg("guard/nxagent_guard.c")
        .arg("-ldl")
        .status()
        .map_err(|e| {
            format!("cannot run the C compiler '{compiler}': {e}; install one (package gcc) or set CC")
        })?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("'{compiler}' failed to build guard/nxagent_guard.c: {status}"))
    }
}
