//! The paths that belong to callgate: the fixed ones, and those that the configuration adds.

use super::path::{self, PathClass, Reserved, canonical, cut_at_terminator};

/// The paths that belong to callgate on every host.
#[derive(Debug, Default)]
pub struct OwnPaths(Vec<OwnPath>);

/// A path that the configuration adds.
#[derive(Debug)]
struct OwnPath {
    /// The spelling that is answered.
    path: String,
    /// All spellings of it have this canonical copy.
    canonical: String,
    answers_as: Reserved,
}

impl OwnPaths {
    /// Adds paths, each with what it answers as.
    #[must_use]
    pub fn new(paths: Vec<(&str, Reserved)>) -> Self {
        Self(paths.into_iter().map(|(path, answers_as)| OwnPath::new(path, answers_as)).collect())
    }

    /// Classifies a path as [`path::classify`] does, with the paths of the configuration.
    #[must_use]
    pub fn classify(&self, path: &str) -> PathClass {
        match path::classify(path) {
            PathClass::Open if !self.0.is_empty() => self.classify_open(path),
            class => class,
        }
    }

    /// Classifies a path that is not one of the fixed ones.
    fn classify_open(&self, path: &str) -> PathClass {
        if let Some(own) = self.0.iter().find(|own| own.path == path) {
            return PathClass::Reserved(own.answers_as);
        }
        let canonical = canonical(path);
        let read = cut_at_terminator(&canonical);
        if self.0.iter().any(|own| own.canonical == read) { PathClass::Disguised } else { PathClass::Open }
    }
}

impl OwnPath {
    fn new(path: &str, answers_as: Reserved) -> Self {
        Self { path: path.to_owned(), canonical: canonical(path).into_owned(), answers_as }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(expected: PathClass, paths: &[&str]) {
        let own = OwnPaths::new(vec![
            ("/thirdpartylogin.php", Reserved::Pbx),
            ("/SSO.aspx", Reserved::Pbx),
            ("/phone/socket", Reserved::Socket),
        ]);
        for path in paths {
            assert_eq!(own.classify(path), expected, "{path}");
        }
    }

    #[test]
    fn the_configured_spelling_is_answered() {
        check(PathClass::Reserved(Reserved::Pbx), &["/thirdpartylogin.php", "/SSO.aspx", "/auth/pbx"]);
        check(PathClass::Reserved(Reserved::Socket), &["/phone/socket", "/auth/pbx/socket"]);
    }

    #[test]
    fn no_other_spelling_goes_upstream() {
        check(
            PathClass::Disguised,
            &[
                "/ThirdPartyLogin.php",
                "/thirdpartylogin%2ephp",
                "//thirdpartylogin.php",
                "/./thirdpartylogin.php",
                "/x/../thirdpartylogin.php",
                "/thirdpartylogin.php;jsessionid=1",
                "/thirdpartylogin.php%00",
                "/thirdpartylogin.php%3fx",
                "\\thirdpartylogin.php",
                "/sso.aspx",
                "/Phone/socket",
                "/phone%2fsocket",
                "/phone//socket",
                "/AUTH/pbx",
            ],
        );
    }

    #[test]
    fn other_paths_are_the_upstreams() {
        check(PathClass::Open, &["/", "/thirdpartylogin", "/thirdpartylogin.php/", "/thirdpartylogin.php5", "/phone"]);
        assert_eq!(OwnPaths::default().classify("/thirdpartylogin.php"), PathClass::Open);
    }
}
