//! Whether the arguments fit the command. Done before anything touches the database; every problem is named.

use std::collections::BTreeMap;

use super::catalogue::Parameter;

/// The problems of a set of named arguments, in the order of the command's parameters.
pub(super) fn problems(
    given: &BTreeMap<String, String>,
    parameters: &[Parameter],
    password_comes_otherwise: bool,
) -> Vec<String> {
    let has = |name: &str| given.contains_key(name);
    let mandatory = |name: &str| format!("Syntax error: parameter '{name}' is mandatory");
    let mut problems = Vec::new();
    let mut known: Vec<&str> = Vec::new();
    for parameter in parameters {
        match *parameter {
            Parameter::Mandatory(name) => {
                known.push(name);
                if !has(name) {
                    problems.push(mandatory(name));
                }
            }
            Parameter::MandatoryUnless(name, (other, value)) => {
                known.push(name);
                if !has(name) && given.get(other).is_none_or(|given| given != value) {
                    problems.push(mandatory(name));
                }
            }
            Parameter::Password(name) => {
                known.push(name);
                if !has(name) && !password_comes_otherwise {
                    problems.push(mandatory(name));
                }
            }
            Parameter::Optional(name) => known.push(name),
            Parameter::OneOf(names) => {
                known.extend(names);
                let present: Vec<_> = names.iter().copied().filter(|name| has(name)).collect();
                match present.as_slice() {
                    [_] => {}
                    [] => problems
                        .push(format!("Syntax error: either parameter {} is mandatory", either(names))),
                    several => problems.push(format!(
                        "Syntax error: parameters {} are mutually exclusive",
                        quoted(several).join(" and ")
                    )),
                }
            }
            Parameter::Apart(one, other) => {
                if has(one) && has(other) {
                    problems.push(format!(
                        "Syntax error: parameters '{one}' and '{other}' can not be used together"
                    ));
                }
            }
        }
    }
    let unknown: Vec<_> = given.keys().map(String::as_str).filter(|name| !known.contains(name)).collect();
    if !unknown.is_empty() {
        problems.push(format!("Syntax error: too many arguments: {}", quoted(&unknown).join(", ")));
    }
    problems
}

fn quoted(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| format!("'{name}'")).collect()
}

/// `'a' or 'b'`, `'a', 'b' or 'c'`.
fn either(names: &[&str]) -> String {
    let names = quoted(names);
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::catalogue::{Arguments, find};
    use super::*;

    fn check(object: &str, verb: &str, words: &str) -> Vec<String> {
        let Arguments::Named(parameters) = find(object, verb).unwrap().arguments else { panic!("not named") };
        let words: Vec<_> = words.split_whitespace().map(str::to_owned).collect();
        problems(&super::super::options::pairs(&words).unwrap(), parameters, false)
    }

    #[test]
    fn all_problems_are_named() {
        assert_eq!(
            check("vm", "add", "osf=a osf_id=1 bulk=3 ip=10.0.0.1 z=1 b=2"),
            [
                "Syntax error: parameter 'name' is mandatory",
                "Syntax error: either parameter 'user_id' or 'user' is mandatory",
                "Syntax error: parameters 'osf_id' and 'osf' are mutually exclusive",
                "Syntax error: parameters 'bulk' and 'ip' can not be used together",
                "Syntax error: too many arguments: 'b', 'z'",
            ]
        );
        assert!(check("vm", "add", "name=a user=b osf=c").is_empty());
    }

    #[test]
    fn an_image_without_a_file_needs_no_path() {
        assert_eq!(check("di", "add", "osf=a"), ["Syntax error: parameter 'path' is mandatory"]);
        assert!(check("di", "add", "osf=a format=none").is_empty());
        assert_eq!(check("di", "add", "osf=a format=raw"), ["Syntax error: parameter 'path' is mandatory"]);
    }

    #[test]
    fn a_password_may_come_from_elsewhere() {
        assert_eq!(check("user", "add", "login=a"), ["Syntax error: parameter 'password' is mandatory"]);
        let Arguments::Named(parameters) = find("user", "add").unwrap().arguments else { panic!() };
        let given = BTreeMap::from([("login".to_owned(), "a".to_owned())]);
        assert!(problems(&given, parameters, true).is_empty());
        assert_eq!(
            check("user", "passwd", ""),
            ["Syntax error: either parameter 'user', 'login' or 'user_id' is mandatory"]
        );
    }
}
