//! What a configuration does as a whole: layers, references, mistakes and live reload.

mod database;
mod layers;
mod mistakes;
mod reading;
mod references;

use super::*;

fn rows(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn from_file(text: &str) -> Config {
    Config::builder().file("node.conf", text).build().expect("the file is good")
}

/// The lines of the error that a file causes.
fn errors(text: &str) -> Vec<String> {
    let error = Config::builder().file("node.conf", text).build().expect_err("the file is bad");
    error.to_string().lines().map(str::to_owned).collect()
}

fn texts(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(ToString::to_string).collect()
}
