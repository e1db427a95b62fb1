//! Files of a `serve.json` (`Path`), as Go serves them: a file at its mount alone, a directory with its
//! `index.html` or a list (Go: `serveFileOrDirectory`, `net/http` `FileServer`).

use std::{io, path::Path as FilePath};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header, request};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use postern_proxy_config::group::PathMatch;
use tower_http::services::ServeFile;

use super::{Failure, guard::Admitted};
use crate::route::Route;

/// A file on its way.
pub type FileBody = UnsyncBoxBody<Bytes, io::Error>;

/// What Go's `url.URL` leaves as it is in a path.
const PLAIN: AsciiSet = NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b'$')
    .remove(b'&')
    .remove(b'+')
    .remove(b',')
    .remove(b'/')
    .remove(b':')
    .remove(b'=')
    .remove(b'@');

/// Answers from `root`, which is a file or a directory.
pub(super) async fn answer(
    root: &str,
    route: &Route,
    head: &request::Parts,
    admitted: &Admitted,
) -> Result<Response<FileBody>, Failure> {
    if head.method != Method::GET && head.method != Method::HEAD {
        return Ok(empty(StatusCode::METHOD_NOT_ALLOWED, None));
    }
    let path = admitted.path.as_str();
    let (PathMatch::Prefix(mount) | PathMatch::Exact(mount)) = &route.config.path;
    let is_dir = tokio::fs::metadata(root).await.map_err(failure)?.is_dir();
    if !is_dir {
        return if path == mount {
            file(FilePath::new(root), head).await
        } else {
            Err(Failure::NoRoute)
        };
    }
    if path.strip_prefix(mount.trim_end_matches('/')) == Some("") && path != mount {
        return Ok(empty(StatusCode::FOUND, Some(mount)));
    }
    // A checked path has no dot segments and hides no slash.
    let rest = route.rewrite(&admitted.path);
    let below: Vec<u8> = percent_decode_str(rest.trim_start_matches('/')).collect();
    let below = String::from_utf8(below).map_err(|_| Failure::NoRoute)?;
    let target = FilePath::new(root).join(below.trim_end_matches('/'));
    let is_dir = tokio::fs::metadata(&target).await.map_err(failure)?.is_dir();
    match (is_dir, rest.is_empty() || rest.ends_with('/')) {
        (false, false) => file(&target, head).await,
        (false, true) => Err(Failure::NoRoute),
        (true, false) => Ok(empty(StatusCode::MOVED_PERMANENTLY, Some(&format!("{path}/")))),
        (true, true) => {
            let index = target.join("index.html");
            if tokio::fs::metadata(&index)
                .await
                .is_ok_and(|index| index.is_file())
            {
                file(&index, head).await
            } else {
                Ok(html(list(&target).await.map_err(failure)?))
            }
        }
    }
}

async fn file(path: &FilePath, head: &request::Parts) -> Result<Response<FileBody>, Failure> {
    // Ranges, conditions and the type are the library's.
    let mut request = Request::new(Full::<Bytes>::default());
    *request.method_mut() = head.method.clone();
    *request.headers_mut() = head.headers.clone();
    let response = ServeFile::new(path).try_call(request).await.map_err(failure)?;
    if response.status() == StatusCode::NOT_FOUND {
        return Err(Failure::NoRoute);
    }
    Ok(response.map(|body| body.boxed_unsync()))
}

async fn list(dir: &FilePath) -> io::Result<String> {
    let mut entries = tokio::fs::read_dir(dir).await?;
    let mut names = Vec::new();
    while let Some(entry) = entries.next_entry().await? {
        let mut name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type().await?.is_dir() {
            name.push('/');
        }
        names.push(name);
    }
    names.sort();
    let mut out =
        String::from("<!doctype html>\n<meta name=\"viewport\" content=\"width=device-width\">\n<pre>\n");
    for name in names {
        let href = utf8_percent_encode(&name, &PLAIN);
        out.push_str(&format!(
            "<a href=\"{}{href}\">{}</a>\n",
            dot(&name),
            escaped(&name)
        ));
    }
    out.push_str("</pre>\n");
    Ok(out)
}

/// Before a colon a name would be a scheme.
fn dot(name: &str) -> &'static str {
    if name.contains(':') { "./" } else { "" }
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

fn html(text: String) -> Response<FileBody> {
    let body = Full::from(text).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/html; charset=utf-8"),
    );
    response
}

fn empty(status: StatusCode, location: Option<&str>) -> Response<FileBody> {
    let body = Full::default().map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    // A checked path is a header value.
    if let Some(location) = location.and_then(|l| HeaderValue::from_str(l).ok()) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

fn failure(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Failure::NoRoute,
        _ => {
            tracing::warn!(%error, "A file can't be served");
            Failure::Unavailable
        }
    }
}
