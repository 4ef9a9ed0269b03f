//! Names for torrents of an open tracker that no cache of the mesh holds: the table, the form, and the same for programs.
//!
//! Rule: this is the only thing that the web can change. Who asks from this machine may, and who knows the configured
//! token; a page of somebody else that is open in a browser here may not (its requests name another origin). Of a name
//! nothing follows but that it is shown.
//!
//! Not here: where names are kept (`labmesh_proto::tracker`).

use std::fmt::{self, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{ConnectInfo, Extension, State};
use axum::http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use bytes::Bytes;
use labmesh_proto::id::InfoHash;
use labmesh_proto::io::{Command, Reply};
use labmesh_proto::node::{Status, TorrentStatus};
use labmesh_proto::wire::control::RegisteredName;
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::page::{BTTRACK_COLUMNS, cell, number, thead};
use super::text::{Size, Text};
use super::{ReachedAt, Site, Unanswered, answer, html_page, json};
use crate::io::tracker::Token;

/// A hash, a name of 255 bytes that are all escaped, a size and a token.
const BODY_BYTES_MAX: usize = 4 * 1024;
/// As for other pages, but that the form may be sent here.
const FORM_POLICY: HeaderValue =
    HeaderValue::from_static("default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'self'");

/// What is asked for.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Registration {
    info_hash: String,
    name: String,
    size: u64,
    /// For who cannot set a header.
    #[serde(default, skip_serializing)]
    token: Option<String>,
}

/// One line of `/api/torrents`.
#[derive(Debug, Serialize)]
struct Torrent<'a> {
    info_hash: String,
    name: Option<&'a str>,
    size: Option<u64>,
    complete: u32,
    downloading: u32,
    downloaded: u64,
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    #[error("only this machine may name torrents, or who knows the token (see register_token)")]
    Stranger,
    #[error("this tracker is for the images of the catalogue only, which have their names (--open-tracker opens it)")]
    Closed,
    #[error("{0}")]
    Bad(String),
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let code = match &self {
            Self::Stranger | Self::Closed => StatusCode::FORBIDDEN,
            Self::Bad(_) => StatusCode::BAD_REQUEST,
            Self::Unanswered(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        (code, format!("{self}\n")).into_response()
    }
}

type Shared = State<Arc<Site>>;
type Asker = (ConnectInfo<SocketAddr>, Extension<ReachedAt>);

/// `GET /register`: the form, where it is of use.
pub(super) async fn form(State(site): Shared) -> Result<Response, Refused> {
    if !site.policy.open {
        return Err(Refused::Closed);
    }
    Ok(html_page(Bytes::from_static(include_bytes!("register.html")), FORM_POLICY))
}

/// `POST /register`: what the form sends.
pub(super) async fn by_form(State(site): Shared, asker: Asker, request: Request<Body>) -> Result<Redirect, Refused> {
    let (parts, body) = request.into_parts();
    expect_type(&parts.headers, "application/x-www-form-urlencoded")?;
    let registration = parse_form(&read(body).await?)?;
    register(&site, &asker, &parts.headers, &registration).await?;
    Ok(Redirect::to("/"))
}

/// `POST /api/register`: the same as JSON.
pub(super) async fn by_json(State(site): Shared, asker: Asker, request: Request<Body>) -> Result<Response, Refused> {
    let (parts, body) = request.into_parts();
    expect_type(&parts.headers, "application/json")?;
    let registration: Registration =
        serde_json::from_str(&read(body).await?).map_err(|error| Refused::Bad(format!("no such request: {error}")))?;
    register(&site, &asker, &parts.headers, &registration).await?;
    Ok(json(&registration))
}

/// `GET /api/torrents`: what the table shows.
pub(super) async fn list(State(site): Shared) -> Result<Response, Unanswered> {
    let status = site.status().await?;
    Ok(json(&status.torrents.iter().map(Torrent::of).collect::<Vec<_>>()))
}

impl<'a> Torrent<'a> {
    fn of(t: &'a TorrentStatus) -> Self {
        Self {
            info_hash: t.info_hash.to_string(),
            name: t.known.as_ref().map(|(name, _)| name.as_str()),
            size: t.known.as_ref().map(|(_, size)| *size),
            complete: t.complete,
            downloading: t.downloading,
            downloaded: t.downloaded,
        }
    }
}

/// The table below the images on the status page, if there is anything to show.
pub(super) fn table(out: &mut String, status: &Status) -> fmt::Result {
    if status.torrents.is_empty() {
        return Ok(());
    }
    out.write_str("<h3>Other torrents of this open tracker</h3>\n")?;
    thead(out, "images", &BTTRACK_COLUMNS[..6])?;
    out.write_str("<tbody>\n")?;
    for t in &status.torrents {
        out.write_str("<tr>")?;
        cell(out, "info hash", format_args!("<code>{}</code>", t.info_hash))?;
        match &t.known {
            Some((name, size)) => {
                write!(out, "<td class=\"t name\" data-label=\"torrent name\">{}</td>", Text(name))?;
                number(out, "size", Size(*size))?;
            }
            None => out.write_str("<td></td><td></td>")?,
        }
        number(out, "complete", t.complete)?;
        number(out, "downloading", t.downloading)?;
        number(out, "downloaded", t.downloaded)?;
        out.write_str("</tr>\n")?;
    }
    out.write_str("</tbody>\n</table></div>\n<p><a href=\"/register\">Name a torrent</a></p>\n")
}

async fn register(site: &Site, asker: &Asker, headers: &HeaderMap, asked: &Registration) -> Result<(), Refused> {
    let (ConnectInfo(source), Extension(ReachedAt(reached_at))) = asker;
    let proven = bearer(headers).or(asked.token.as_deref());
    let proxied = site.policy.trusted_proxies.contains(&source.ip().to_canonical());
    let here = !proxied && is_from_here(source.ip(), reached_at.ip(), headers);
    let knows = proven.zip(site.policy.register_token.as_ref()).is_some_and(|(said, Token(word))| same(said, word));
    if !here && !knows {
        return Err(Refused::Stranger);
    }
    let bad = |what: &str| Refused::Bad(what.to_owned());
    let info_hash: InfoHash = asked.info_hash.trim().parse().map_err(|_| bad("info_hash: expected 40 hex digits"))?;
    let name = RegisteredName { info_hash, name: asked.name.trim().to_owned(), size: asked.size };
    if !name.is_good() {
        return Err(bad("name: expected 1 to 255 bytes without control characters"));
    }
    match answer(site.handle.command(Command::Register(name))).await? {
        Reply::Done => Ok(()),
        Reply::Refused(why) => Err(Refused::Bad(why.to_string())),
        Reply::Started(_) | Reply::Changed(_) | Reply::AlreadyHere(_) | Reply::Torrent(_) | Reply::Limits(_) => {
            Err(bad("no answer to this question"))
        }
    }
}

/// Whether the request was made on this machine, and by no page of another site: a browser says whose page it was
/// (`Origin`, `Sec-Fetch-Site`), and asked for this host by an address or `localhost`, which no foreign name can pretend
/// to be. A request that some proxy passed on was made elsewhere.
fn is_from_here(source: IpAddr, reached_at: IpAddr, headers: &HeaderMap) -> bool {
    let said = |name: header::HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let source = source.to_canonical();
    let proxied = ["forwarded", "x-forwarded-for", "via"].iter().any(|name| headers.contains_key(*name));
    let host = said(header::HOST).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.contains(']') { host } else { name });
    let literal = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok() || name == "localhost";
    let same_origin = said(header::ORIGIN).is_none_or(|origin| origin.strip_prefix("http://") == Some(host));
    let same_site = headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin");
    (source.is_loopback() || source == reached_at.to_canonical()) && !proxied && literal && same_origin && same_site
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")
}

/// Whether two words are the same, in a time that says nothing of how far they are.
fn same(said: &str, word: &str) -> bool {
    Sha256::digest(said) == Sha256::digest(word)
}

fn expect_type(headers: &HeaderMap, expected: &'static str) -> Result<(), Refused> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(expected)) {
        return Ok(());
    }
    Err(Refused::Bad(format!("expected a body of type {expected}")))
}

async fn read(body: Body) -> Result<String, Refused> {
    let bytes = axum::body::to_bytes(body, BODY_BYTES_MAX).await;
    let bytes = bytes.map_err(|_| Refused::Bad(format!("expected at most {BODY_BYTES_MAX} bytes")))?;
    String::from_utf8(bytes.into()).map_err(|_| Refused::Bad("expected UTF-8".to_owned()))
}

/// Reads what a browser makes of the form.
fn parse_form(body: &str) -> Result<Registration, Refused> {
    let (mut info_hash, mut name, mut size, mut token) = (None, None, None, None);
    for (key, value) in body.split('&').filter_map(|pair| pair.split_once('=')) {
        let value = value.replace('+', " ");
        let value = percent_decode_str(&value).decode_utf8().map_err(|_| Refused::Bad("expected UTF-8".to_owned()))?;
        let place = match key {
            "info_hash" => &mut info_hash,
            "name" => &mut name,
            "size" => &mut size,
            "token" => &mut token,
            _ => continue,
        };
        *place = Some(value.into_owned());
    }
    let missing = |what: &str| Refused::Bad(format!("{what} is missing"));
    let size = size.ok_or_else(|| missing("size"))?;
    Ok(Registration {
        info_hash: info_hash.ok_or_else(|| missing("info_hash"))?,
        name: name.ok_or_else(|| missing("name"))?,
        size: size.trim().parse().map_err(|_| Refused::Bad("size: expected a number of bytes".to_owned()))?,
        token: token.filter(|token| !token.is_empty()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, headers: &[(&'static str, &'static str)], expected: bool) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, HeaderValue::from_static(value));
        }
        let reached_at = "10.0.0.5".parse().unwrap();
        assert_eq!(is_from_here(source.parse().unwrap(), reached_at, &map), expected, "{source} {headers:?}");
    }

    #[test]
    fn this_machine_is_told_from_others_and_from_pages_of_others() {
        check("127.0.0.1", &[("host", "127.0.0.1:6969")], true);
        check("::ffff:127.0.0.1", &[("host", "[::1]:6969")], true);
        check("10.0.0.5", &[("host", "10.0.0.5:6969"), ("origin", "http://10.0.0.5:6969")], true);
        check("127.0.0.1", &[("host", "localhost:6969"), ("sec-fetch-site", "same-origin")], true);
        check("10.0.0.6", &[("host", "10.0.0.5:6969")], false);
        check("127.0.0.1", &[], false);
        // A page of somebody else in a browser here; a name that was made to mean this machine; a proxy here.
        check("127.0.0.1", &[("host", "127.0.0.1:6969"), ("origin", "http://evil.example")], false);
        check("127.0.0.1", &[("host", "127.0.0.1:6969"), ("origin", "null")], false);
        check("127.0.0.1", &[("host", "localhost"), ("sec-fetch-site", "cross-site")], false);
        check("127.0.0.1", &[("host", "evil.example:6969"), ("origin", "http://evil.example:6969")], false);
        check("127.0.0.1", &[("host", "127.0.0.1:6969"), ("x-forwarded-for", "10.0.0.6")], false);
    }

    #[test]
    fn forms_are_read_as_browsers_send_them() {
        let form = parse_form("info_hash=ab&name=Debian+13+%C3%A9%26.iso&size=+7+&token=&other=1").unwrap();
        assert_eq!((form.info_hash.as_str(), form.name.as_str()), ("ab", "Debian 13 é&.iso"));
        assert_eq!((form.size, form.token), (7, None));
        for bad in ["", "info_hash=ab&name=x", "info_hash=ab&name=x&size=much", "info_hash=ab&name=%ff&size=1"] {
            assert!(parse_form(bad).is_err(), "{bad}");
        }
    }
}
