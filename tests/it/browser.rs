//! A real browser without a screen, and what it did: Debian's Chromium, told what to do by the Chrome DevTools
//! Protocol.
//!
//! Rule: it runs on a host of the lab, so that whatever it asks for on its own reaches nobody. The protocol goes
//! through two pipes (`--remote-debugging-pipe`: JSON, a zero byte behind each message). Not here: what is expected of
//! a page.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Program, scratch, wait_for};
use crate::lab::Host;

/// A browser has to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Without its sandbox, since the tests are root; without everything that asks the network by itself.
const FLAGS: &str = "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking \
    --disable-component-update --disable-sync --disable-dev-shm-usage --remote-debugging-pipe";

/// One browser with one tab.
#[derive(Debug)]
pub(crate) struct Browser {
    to: ChildStdin,
    from: mpsc::Receiver<Value>,
    asked: u64,
    session: String,
    events: Vec<Value>,
    _program: Program,
    _profile: tempfile::TempDir,
}

impl Browser {
    /// Starts it on a host; `None`, and a line that says why, if it is not installed.
    pub(crate) fn open(host: &Host, javascript: bool) -> Option<Self> {
        if !std::path::Path::new("/usr/bin/chromium").exists() {
            eprintln!("SKIPPED: chromium is not installed here; tests/run installs it");
            return None;
        }
        let profile = scratch();
        let script = if javascript { "" } else { "--blink-settings=scriptEnabled=false" };
        let folder = profile.path().display();
        let line = format!("exec chromium {FLAGS} {script} --user-data-dir={folder} 3<&0 4>&1 1>/dev/null 2>&1");
        let mut command = host.command("sh");
        command.arg("-c").arg(line).env("HOME", profile.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sh can be started");
        let (to, stdout) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let (sender, from) = mpsc::channel();
        std::thread::spawn(move || {
            for message in BufReader::new(stdout).split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("the browser speaks JSON");
                if sender.send(message).is_err() {
                    break;
                }
            }
        });
        let (asked, session, events) = (0, String::new(), Vec::new());
        let mut browser = Self { to, from, asked, session, events, _program: Program(child), _profile: profile };
        let target = browser.call("Target.createTarget", &json!({ "url": "about:blank" }))["targetId"].clone();
        let attached = browser.call("Target.attachToTarget", &json!({ "targetId": target, "flatten": true }));
        attached["sessionId"].as_str().expect("it attaches").clone_into(&mut browser.session);
        for domain in ["Page", "Network", "Log", "Runtime", "DOM"] {
            browser.call(&format!("{domain}.enable"), &json!({}));
        }
        Some(browser)
    }

    /// Asks it for something that it does not refuse; its answer.
    #[track_caller]
    pub(crate) fn call(&mut self, method: &str, params: &Value) -> Value {
        self.ask(method, params).unwrap_or_else(|refused| panic!("{method}: {refused}"))
    }

    /// Asks it for something; its answer, or why not.
    #[track_caller]
    fn ask(&mut self, method: &str, params: &Value) -> Result<Value, Value> {
        self.asked += 1;
        let id = self.asked;
        let mut message = json!({ "id": id, "method": method, "params": params });
        if !self.session.is_empty() {
            message["sessionId"] = self.session.as_str().into();
        }
        self.to.write_all(format!("{message}\0").as_bytes()).expect("the browser runs");
        loop {
            let said = self.from.recv_timeout(PATIENCE).unwrap_or_else(|e| panic!("{method}: {e}"));
            if said["id"] == id {
                return if said["error"].is_null() { Ok(said["result"].clone()) } else { Err(said["error"].clone()) };
            }
            self.events.push(said);
        }
    }

    /// Goes to a page and waits until it is loaded.
    #[track_caller]
    pub(crate) fn visit(&mut self, url: &str) {
        let before = self.happened("Page.loadEventFired").len();
        self.call("Page.navigate", &json!({ "url": url }));
        wait_for(PATIENCE, "the page to be loaded", || {
            (self.happened("Page.loadEventFired").len() > before).then_some(())
        });
    }

    /// The value of a JavaScript expression in the page.
    #[track_caller]
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let result = self.call("Runtime.evaluate", &json!({ "expression": expression, "returnByValue": true }));
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].clone()
    }

    /// Waits until an expression has that value.
    #[track_caller]
    pub(crate) fn until(&mut self, limit: Duration, expression: &str, expected: &Value) {
        wait_for(limit, &format!("{expression} to be {expected}"), || {
            (self.value(expression) == *expected).then_some(())
        });
    }

    /// The page as it is now, also where no script runs. One that loads itself again between our two questions
    /// answers the second with an error: then both are asked again.
    #[track_caller]
    pub(crate) fn html(&mut self) -> String {
        wait_for(PATIENCE, "the page's HTML", || {
            let root = self.call("DOM.getDocument", &json!({}))["root"]["nodeId"].clone();
            let html = self.ask("DOM.getOuterHTML", &json!({ "nodeId": root })).ok()?;
            Some(html["outerHTML"].as_str().expect("a page has HTML").to_owned())
        })
    }

    /// Makes the window so wide and high.
    pub(crate) fn resize(&mut self, width: u32, height: u32, mobile: bool) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile });
        self.call("Emulation.setDeviceMetricsOverride", &size);
    }

    /// As if the person liked pages `light` or `dark`.
    pub(crate) fn prefers(&mut self, scheme: &str) {
        let feature = json!({ "name": "prefers-color-scheme", "value": scheme });
        self.call("Emulation.setEmulatedMedia", &json!({ "features": [feature] }));
    }

    /// A picture of the window, for a person to look at, if `LABMESH_TEST_PICTURES` names a folder.
    pub(crate) fn picture(&mut self, name: &str) {
        let Some(folder) = std::env::var_os("LABMESH_TEST_PICTURES") else { return };
        let shot = self.call("Page.captureScreenshot", &json!({}));
        let data = shot["data"].as_str().expect("a picture in base 64");
        let file = std::path::Path::new(&folder).join(name);
        let mut decoder = std::process::Command::new("base64");
        let out = std::fs::File::create(file).expect("the folder can be written to");
        let mut decoder = decoder.arg("-d").stdin(Stdio::piped()).stdout(out).spawn().expect("base64 of coreutils");
        decoder.stdin.take().expect("piped").write_all(data.as_bytes()).expect("it reads");
        assert!(decoder.wait().is_ok_and(|status| status.success()));
    }

    /// Everything of that kind that has happened: the parameters of the events.
    pub(crate) fn happened(&mut self, method: &str) -> Vec<Value> {
        self.events.extend(self.from.try_iter());
        self.events.iter().filter(|event| event["method"] == method).map(|event| event["params"].clone()).collect()
    }

    /// Every address that it asked for.
    pub(crate) fn requests(&mut self) -> Vec<String> {
        let url = |event: Value| event["request"]["url"].as_str().unwrap_or_default().to_owned();
        self.happened("Network.requestWillBeSent").into_iter().map(url).collect()
    }

    /// Whatever its console shows, exceptions, refused content and dialogues.
    pub(crate) fn complaints(&mut self) -> Vec<Value> {
        let kinds =
            ["Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Page.javascriptDialogOpening"];
        kinds.iter().flat_map(|kind| self.happened(kind)).collect()
    }
}
