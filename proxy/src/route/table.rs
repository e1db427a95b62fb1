//! Which route a request takes.

use std::sync::Arc;

use ahash::AHashMap;
use postern_proxy_config::group::{self, PathMatch};

use super::{Host, Path, PathError};

/// Compiled routes of one listener.
#[derive(Debug, Default)]
pub struct Table {
    by_host: AHashMap<String, Paths>,
    any_host: Paths,
}

/// A route, ready for use.
#[derive(Debug)]
pub struct Route {
    /// What metrics and logs call it: its host (or `*`) and path as configured.
    pub label: Arc<str>,
    /// The rest of it.
    pub config: group::Route,
    /// Segments of its prefix; all of them for an exact path.
    depth: usize,
}

/// Why a table can't be made.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("routes[{index}].{field}: {reason}")]
pub struct TableError {
    index: usize,
    field: &'static str,
    reason: String,
}

#[derive(Debug, Default)]
struct Paths {
    exact: AHashMap<String, Arc<Route>>,
    /// By falling length, so that the first match is the longest.
    prefixes: Vec<(Vec<String>, Arc<Route>)>,
}

impl Table {
    /// Compiles routes. Of two with the same condition the first one holds.
    ///
    /// # Errors
    /// Names the route and the field that can't be used.
    pub fn compile(routes: &[group::Route]) -> Result<Self, TableError> {
        let mut table = Self::default();
        for (index, route) in routes.iter().enumerate() {
            let fail = |field, reason: String| TableError { index, field, reason };
            let paths = match &route.host {
                None => &mut table.any_host,
                Some(text) => {
                    let host = Host::parse(text).map_err(|e| fail("host", e.to_string()))?;
                    table.by_host.entry(host.as_str().to_owned()).or_default()
                }
            };
            if let Some(replacement) = &route.replace_prefix
                && !replacement.is_empty()
            {
                Path::parse(replacement).map_err(|e| fail("replacePrefix", e.to_string()))?;
            }
            paths.insert(route).map_err(|e| fail("path", e.to_string()))?;
        }
        table.by_host.values_mut().for_each(Paths::sort);
        table.any_host.sort();
        Ok(table)
    }

    /// The route for a request: host before none, exact path before prefix, long prefix before short.
    pub fn find(&self, host: &Host, path: &Path) -> Option<&Arc<Route>> {
        self.by_host
            .get(host.as_str())
            .and_then(|paths| paths.find(path))
            .or_else(|| self.any_host.find(path))
    }

    /// Hosts that are named by routes.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.by_host.keys().map(String::as_str)
    }
}

impl Route {
    /// The path for the backend, before a path of the backend's own is put in front: may be empty where
    /// the whole path was the prefix and nothing replaces it.
    pub fn rewrite(&self, path: &Path) -> String {
        match &self.config.replace_prefix {
            None => path.as_str().to_owned(),
            Some(replacement) => {
                let rest = path.after(self.depth);
                let rewritten = format!("{}{rest}", replacement.trim_end_matches('/'));
                if rewritten.is_empty() && !replacement.is_empty() {
                    "/".to_owned()
                } else {
                    rewritten
                }
            }
        }
    }
}

impl Paths {
    fn insert(&mut self, route: &group::Route) -> Result<(), PathError> {
        let (text, exact) = match &route.path {
            PathMatch::Exact(text) => (text, true),
            PathMatch::Prefix(text) => (text, false),
        };
        let path = Path::parse(text)?;
        let mut segments: Vec<String> = path.segments().map(str::to_owned).collect();
        if !exact && segments.last().is_some_and(String::is_empty) {
            segments.pop();
        }
        let compiled = Arc::new(Route {
            label: format!("{}{text}", route.host.as_deref().unwrap_or("*")).into(),
            config: route.clone(),
            depth: segments.len(),
        });
        if exact {
            self.exact.entry(key(&path)).or_insert(compiled);
        } else if !self.prefixes.iter().any(|(known, _)| *known == segments) {
            self.prefixes.push((segments, compiled));
        }
        Ok(())
    }

    fn sort(&mut self) {
        self.prefixes
            .sort_by_key(|(segments, _)| std::cmp::Reverse(segments.len()));
    }

    fn find(&self, path: &Path) -> Option<&Arc<Route>> {
        if !self.exact.is_empty()
            && let Some(route) = self.exact.get(&key(path))
        {
            return Some(route);
        }
        self.prefixes
            .iter()
            .find(|(prefix, _)| {
                let mut segments = path.segments();
                prefix.iter().all(|want| segments.next() == Some(want.as_str()))
            })
            .map(|(_, route)| route)
    }
}

fn key(path: &Path) -> String {
    path.segments().collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use postern_proxy_config::group::Backend;

    use super::*;

    fn route(host: Option<&str>, path: PathMatch, text: &str) -> group::Route {
        group::Route {
            host: host.map(str::to_owned),
            path,
            replace_prefix: None,
            backend: Backend::Text {
                text: text.to_owned(),
            },
            app_capabilities: None,
            access: None,
            funnel: false,
            limits: Default::default(),
            timeouts: Default::default(),
        }
    }

    fn prefix(path: &str) -> group::Route {
        route(None, PathMatch::Prefix(path.to_owned()), path)
    }

    fn pick(table: &Table, host: &str, path: &str) -> Option<String> {
        let route = table.find(&Host::parse(host).unwrap(), &Path::parse(path).unwrap())?;
        match &route.config.backend {
            Backend::Text { text } => Some(text.clone()),
            _ => None,
        }
    }

    #[test]
    fn prefixes_match_whole_elements_and_the_longest_wins() {
        let table = Table::compile(&[prefix("/"), prefix("/foo/"), prefix("/foo/bar")]).unwrap();
        for (path, want) in [
            ("/", "/"),
            ("/fo", "/"),
            ("/foobar", "/"),
            ("/foo", "/foo/"),
            ("/foo/", "/foo/"),
            ("/foo/barn", "/foo/"),
            ("/foo/bar/x", "/foo/bar"),
            ("/foo;v=1/bar;w", "/foo/bar"),
            ("/%66oo", "/foo/"),
            ("/FOO", "/"),
        ] {
            assert_eq!(pick(&table, "a", path).as_deref(), Some(want), "{path}");
        }
        let none = Table::compile(&[prefix("/foo")]).unwrap();
        assert_eq!(pick(&none, "a", "/"), None);
    }

    #[test]
    fn exact_beats_prefix_and_a_host_beats_none() {
        let table = Table::compile(&[
            prefix("/x"),
            route(None, PathMatch::Exact("/x".into()), "exact"),
            route(Some("H.example"), PathMatch::Prefix("/x/y".into()), "host"),
        ])
        .unwrap();
        assert_eq!(pick(&table, "a", "/x").as_deref(), Some("exact"));
        assert_eq!(pick(&table, "a", "/x/").as_deref(), Some("/x"));
        assert_eq!(pick(&table, "a", "/x/y").as_deref(), Some("/x"));
        assert_eq!(pick(&table, "h.EXAMPLE.:443", "/x/y").as_deref(), Some("host"));
        assert_eq!(pick(&table, "h.example", "/x/z").as_deref(), Some("/x"));
    }

    #[test]
    fn a_prefix_is_replaced() {
        for (from, to, path, want) in [
            ("/ollama", "/", "/ollama/api/tags", "/api/tags"),
            ("/ollama", "/", "/ollama", "/"),
            ("/ollama", "/", "/ollama/", "/"),
            ("/a", "/b", "/a", "/b"),
            ("/a", "/b", "/a/", "/b/"),
            ("/a/b", "/c/", "/a/b/d", "/c/d"),
            ("/", "/x", "/a", "/x/a"),
            ("/", "/x", "/", "/x"),
            ("/a", "", "/a", ""),
            ("/a", "/b", "/a;v=1/c", "/b/c"),
        ] {
            let mut config = prefix(from);
            config.replace_prefix = Some(to.to_owned());
            let table = Table::compile(&[config]).unwrap();
            let path = Path::parse(path).unwrap();
            let route = table.find(&Host::parse("a").unwrap(), &path).unwrap();
            assert_eq!(route.rewrite(&path), want, "{from} {to} {path}");
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let bad = Table::compile(&[prefix("/"), prefix("/a/../b")]).unwrap_err();
        assert_eq!(bad.to_string(), "routes[1].path: the path has dot segments");
        let bad = Table::compile(&[route(Some("a/b"), PathMatch::Exact("/".into()), "")]).unwrap_err();
        assert_eq!(bad.to_string(), "routes[0].host: not a host with at most a port");
    }
}
