//! Templates like `{cn}` or `plant-{dns}`, filled with names of a client certificate.

const KINDS: [&str; 5] = ["{uri}", "{dns}", "{email}", "{cn}", "{subject}"];

/// Names in a certificate, by kind, in the order of `KINDS`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct CertificateNames(pub(crate) [Vec<String>; 5]);

impl CertificateNames {
    /// Fills the template; `None` if the certificate has no name of a kind.
    pub(crate) fn fill(&self, template: &str) -> Result<Option<String>, String> {
        let mut out = String::new();
        let mut rest = template;
        while let Some(at) = rest.find('{') {
            let (before, from) = rest.split_at(at);
            let Some((kind, names)) = KINDS.iter().zip(&self.0).find(|(kind, _)| from.starts_with(**kind))
            else {
                return Err(format!("the template '{template}' is not known"));
            };
            let name = match names.as_slice() {
                [] => return Ok(None),
                [name] => name,
                several => {
                    return Err(format!(
                        "it has {} names for {kind}, and it is not clear which is meant",
                        several.len()
                    ));
                }
            };
            out.push_str(before);
            out.push_str(name);
            rest = from.get(kind.len()..).unwrap_or_default();
        }
        out.push_str(rest);
        Ok(Some(out))
    }
}

/// Checks the syntax of a template.
///
/// # Errors
/// The allowed forms.
pub fn check_template(template: &str) -> Result<(), String> {
    let one = || vec!["x".to_owned()];
    let names = CertificateNames([one(), one(), one(), one(), one()]);
    match names.fill(template) {
        Ok(Some(filled)) if filled != template => Ok(()),
        _ => Err(format!(
            "'{template}' is not a valid template; it needs one of {}, which the certificate fills",
            KINDS.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_template_that_can_be_filled_unambiguously_counts() {
        let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let names = CertificateNames([
            text(&[]),
            text(&["a.b", "c.d"]),
            text(&["x@y"]),
            text(&["pump-7"]),
            text(&["CN=pump-7,O=x"]),
        ]);
        assert_eq!(names.fill("{uri}"), Ok(None));
        assert_eq!(names.fill("plant-{cn}.{email}"), Ok(Some("plant-pump-7.x@y".to_owned())));
        assert!(names.fill("{dns}").unwrap_err().contains("2 names"));
        assert!(check_template("{cn}").is_ok() && check_template("x-{uri}").is_ok());
        for bad in ["", "cn", "{serial}", "%c", "{cn"] {
            assert!(check_template(bad).is_err(), "{bad}");
        }
    }
}
