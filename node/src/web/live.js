// Follows the status page as it changes. The page is whole without this: then the browser loads it again and again.
"use strict";

const RELOAD_AFTER_MS = 3000;
const link = document.getElementById("link");

/** Makes `old` the same as `fresh` with as few changes as possible, so that selection, scrolling and focus stay. */
function renew(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName || old.nodeType !== Node.ELEMENT_NODE) {
    old.replaceWith(fresh.cloneNode(true));
    return;
  }
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  const [before, after] = [[...old.childNodes], [...fresh.childNodes]];
  after.forEach((child, n) => (n < before.length ? renew(before[n], child) : old.append(child.cloneNode(true))));
  before.slice(after.length).forEach((child) => child.remove());
}

function show(state, words) {
  document.documentElement.dataset.link = state;
  if (link) link.textContent = words;
}

function follow() {
  const events = new EventSource("/events");
  events.addEventListener("open", () => show("live", "live"));
  events.addEventListener("part", (event) => {
    const fresh = new DOMParser().parseFromString(event.data, "text/html").querySelector("[id]");
    const old = fresh && document.getElementById(fresh.id);
    if (old) renew(old, fresh);
  });
  events.addEventListener("error", () => {
    // Closed: the node has listeners enough. Otherwise the browser tries again by itself.
    if (events.readyState === EventSource.CLOSED) {
      show("slow", "every 3 s");
      setTimeout(() => location.reload(), RELOAD_AFTER_MS);
    } else if (document.documentElement.dataset.link !== "lost") {
      show("lost", `no answer since ${new Date().toLocaleTimeString()}; every other node has this page too`);
    }
  });
}

follow();
