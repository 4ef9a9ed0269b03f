//! The status page in a real browser, and the numbers as Prometheus' own tool reads them.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::browser::Browser;
use crate::harness::{HTTP_PORT, MIB, Node, one_master, random_file, scratch};
use crate::lab::{Lab, Link};

/// What somebody might call a file, to see what our page makes of it.
const HOSTILE: &str = "<script>alert(1)<img src=x onerror=alert(2)>&amp;'\" 数学教室.img";
const SIZE: u64 = 40 * MIB;
const LONG: Duration = Duration::from_secs(60);

/// Two nodes of which the first holds the image, on slow cables, and a third host for the browser.
struct Room {
    nodes: [Node; 2],
    url: String,
    _dir: tempfile::TempDir,
    // Last, so that its hosts outlive the nodes on them.
    lab: Lab,
}

impl Room {
    fn open() -> Option<Self> {
        let lab = Lab::open(3, Link::Mbit(80))?;
        let dir = scratch();
        let image = dir.path().join(HOSTILE);
        random_file(&image, SIZE, 21);
        let nodes = [0, 1].map(|n| Node::start(lab.host(n), dir.path(), &format!("pc{n}"), &["--site", "lab-1"]));
        one_master(&[&nodes[0], &nodes[1]], Duration::from_secs(15));
        nodes[0].add(&image);
        nodes[1].sees(HOSTILE, 1);
        let url = format!("http://{}:{HTTP_PORT}/", lab.host(0).addr());
        Some(Self { nodes, url, _dir: dir, lab })
    }
}

fn text_of(part: &str) -> String {
    format!("document.querySelector('{part}').textContent.trim()")
}

/// Goal: what a technician sees changes by itself, by events and not by loading the page again; nothing is asked of
/// anybody else; names are only text; a node that is gone is said to be gone. Method: Chromium looks at the holder
/// while the other node fetches over a cable that takes four seconds for it.
#[test]
fn the_page_in_a_browser_follows_a_transfer_live() {
    let Some(mut room) = Room::open() else { return };
    let Some(mut browser) = Browser::open(room.lab.host(2), true) else { return };
    browser.visit(&room.url);
    browser.until(LONG, "document.documentElement.dataset.link", &json!("live"));
    browser.until(LONG, &text_of("h1"), &json!(format!("1 of 2 PCs has {HOSTILE}")));
    browser.until(LONG, &text_of("#room li:nth-child(2) strong"), &json!("has it not"));
    browser.value("window.same = true");

    let mut getting = room.nodes[1].get(HOSTILE, &[]);
    browser.until(LONG, "document.querySelector('#room li:nth-child(2)').className", &json!("fetching"));
    browser.until(LONG, "(document.querySelector('#now > progress')?.value ?? 0) > 500", &json!(true));
    assert!(browser.value("document.title").as_str().is_some_and(|t| t.contains(" % <script>")));
    getting.completes(LONG);
    browser.until(LONG, &text_of("h1"), &json!(format!("All 2 PCs have {HOSTILE}")));
    browser.until(LONG, "document.querySelector('#images tfoot td[data-label=complete]').textContent", &json!("2"));
    assert_eq!(browser.value("window.same"), true, "the page was never loaded again");
    assert!(browser.happened("Network.eventSourceMessageReceived").len() > 10, "it came by events");

    for width in [360, 768, 1280] {
        browser.resize(width, 800, width < 800);
        let wide = browser.value("document.documentElement.scrollWidth");
        assert!(wide.as_u64().is_some_and(|wide| wide <= width.into()), "{wide} pixels in a window of {width}");
    }
    let strangers: Vec<String> = browser.requests().into_iter().filter(|url| !url.starts_with(&room.url)).collect();
    assert_eq!((strangers, browser.complaints()), (vec![], vec![]));

    room.nodes[0].kill_9();
    browser.until(LONG, "document.documentElement.dataset.link", &json!("lost"));
    room.nodes[0].restart();
    browser.until(LONG, "document.documentElement.dataset.link", &json!("live"));
    assert_eq!(browser.value("window.same"), true);
}

/// For each piece of text that is shown: what, how much it stands out of what is behind it, its colour. A canvas says
/// what a colour is, in whatever words the style has it; backgrounds lie over one another as they do on the screen.
const CONTRASTS: &str = r"(() => {
    const pen = Object.assign(document.createElement('canvas'), { width: 1, height: 1 })
        .getContext('2d', { willReadFrequently: true });
    const over = (colours) => {
        pen.clearRect(0, 0, 1, 1);
        for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
        return [...pen.getImageData(0, 0, 1, 1).data].slice(0, 3);
    };
    const light = (rgb) => {
        const [r, g, b] = rgb.map((c) => c / 255).map((c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const found = [];
    const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walk.nextNode()) {
        const text = walk.currentNode.textContent.trim(), element = walk.currentNode.parentElement;
        const box = element.getBoundingClientRect();
        // What stands in a bar is for browsers that know none.
        if (!text || element.matches('progress') || !element.checkVisibility({ visibilityProperty: true }) || box.width < 2 || box.height < 2) continue;
        const behind = [];
        for (let e = element; e; e = e.parentElement) behind.unshift(getComputedStyle(e).backgroundColor);
        behind.unshift('Canvas');
        const [paper, ink] = [over(behind), over([...behind, getComputedStyle(element).color])];
        const [a, b] = [light(paper), light(ink)].sort((a, b) => a - b);
        found.push([text, (b + .05) / (a + .05), ink.join(), paper.join()]);
    }
    return found;
})()";

/// Every piece of text of the page, readable by WCAG 2.1, 1.4.3; the colours of the page's text and paper.
#[track_caller]
fn readable(browser: &mut Browser, scheme: &str, state: &str) -> (Value, Value) {
    browser.prefers(scheme);
    browser.until(LONG, &format!("matchMedia('(prefers-color-scheme: {scheme})').matches"), &json!(true));
    browser.picture(&format!("{state}-{scheme}.png"));
    let found = browser.value(CONTRASTS);
    let found = found.as_array().expect("a list");
    assert!(found.len() > 40, "a page with so little text was not looked at: {found:?}");
    let faint: Vec<&Value> = found.iter().filter(|text| text[1].as_f64().is_none_or(|ratio| ratio < 4.5)).collect();
    assert!(faint.is_empty(), "{scheme}, {state}: {faint:?}");
    let of_body = |what: &str| format!("getComputedStyle(document.body).{what}");
    (browser.value(&of_body("color")), browser.value(&of_body("backgroundColor")))
}

/// Light and dark, before, while and after an image is fetched, and when a node is gone.
#[test]
fn the_page_is_readable_in_the_light_and_in_the_dark() {
    let Some(mut room) = Room::open() else { return };
    let Some(mut browser) = Browser::open(room.lab.host(2), true) else { return };
    browser.resize(1280, 1000, false);
    browser.visit(&room.url);
    browser.until(LONG, "document.documentElement.dataset.link", &json!("live"));
    let both = |browser: &mut Browser, state: &str| {
        let [light, dark] = ["light", "dark"].map(|scheme| readable(browser, scheme, state));
        assert!(light.0 != dark.0 && light.1 != dark.1, "{light:?} and {dark:?} are not two schemes");
    };
    browser.until(LONG, &text_of("#room li:nth-child(2) strong"), &json!("has it not"));
    both(&mut browser, "before");
    let mut getting = room.nodes[1].get(HOSTILE, &[]);
    browser.until(LONG, "(document.querySelector('#now > progress')?.value ?? 0) > 200", &json!(true));
    both(&mut browser, "fetching");
    getting.completes(LONG);
    browser.until(LONG, &text_of("h1"), &json!(format!("All 2 PCs have {HOSTILE}")));
    both(&mut browser, "after");
    room.nodes[1].kill_9();
    browser.until(LONG, "document.querySelector('#room li.away') !== null", &json!(true));
    both(&mut browser, "gone");
}

#[test]
fn the_page_without_javascript_is_loaded_again_and_again() {
    let Some(room) = Room::open() else { return };
    let Some(mut browser) = Browser::open(room.lab.host(2), false) else { return };
    browser.visit(&room.url);
    assert!(browser.html().contains("1 of 2 PCs has"), "{}", browser.html());
    room.nodes[1].get(HOSTILE, &[]).completes(LONG);
    crate::harness::wait_for(LONG, "the page to show the second copy", || {
        browser.html().contains("All 2 PCs have").then_some(())
    });
    let asked = browser.requests();
    assert!(asked.iter().all(|url| url.starts_with(&room.url) && !url.ends_with("/events")), "{asked:?}");
    assert_eq!(browser.complaints(), Vec::<Value>::new());
}

#[test]
fn prometheus_takes_our_numbers() {
    let dir = scratch();
    let node = Node::start(&crate::lab::Host::loopback(31), dir.path(), "numbers", &["--mesh", "numbers"]);
    let image = dir.path().join("a \"b\" é.img");
    random_file(&image, MIB, 3);
    node.add(&image);
    let (code, text) = node.page("/metrics");
    assert_eq!(code, 200);
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let Ok(mut promtool) = promtool.spawn() else {
        eprintln!("SKIPPED: promtool is not installed here; tests/run installs it");
        return;
    };
    promtool.stdin.take().expect("piped").write_all(&text).expect("it reads");
    let output = promtool.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));
}
