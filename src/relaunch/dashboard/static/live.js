// Keeps the page true while it is open: hears "changed" from /events, asks for the page again and changes only what
// differs, so that focus, scroll and opened details stay. Without this script a reload shows the same.
"use strict";
(() => {
  const link = document.getElementById("link");
  const announcer = document.getElementById("announcer");
  const serverNow = Date.parse(document.querySelector('meta[name="now"]').content);
  const ahead = serverNow - Date.now();
  let source = null, asking = false, askAgain = false;

  // The same words as words.span in Python.
  function span(seconds) {
    const whole = Math.max(0, Math.floor(seconds));
    const minutes = Math.floor(whole / 60), hours = Math.floor(whole / 3600);
    if (whole < 60) return `${whole} s`;
    if (whole < 600) return `${minutes} min ${whole % 60} s`;
    if (whole < 3600) return `${minutes} min`;
    if (whole < 86400) return `${hours} h ${Math.floor((whole % 3600) / 60)} min`;
    return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
  }

  function tick() {
    const now = Date.now() + ahead;
    for (const time of document.querySelectorAll("time[data-since]")) {
      const text = span((now - Date.parse(time.dateTime)) / 1000);
      if (time.textContent !== text) time.textContent = text;
    }
  }

  function same(a, b) {
    return a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id || "") === (b.id || "");
  }

  function become(old, fresh) {
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
    const follows = old.dataset.follow !== undefined && old.scrollHeight - old.scrollTop - old.clientHeight < 24;
    if (old.nodeName !== "TIME" || old.dataset.since === undefined) becomeChildren(old, fresh);
    if (follows) old.scrollTop = old.scrollHeight;
  }

  function becomeChildren(old, fresh) {
    // What goes, goes first: the rest then need not be moved, and what is moved loses its focus.
    const staying = new Set([...fresh.children].map((child) => child.id));
    for (const child of [...old.children]) if (child.id && !staying.has(child.id)) child.remove();
    const byId = new Map([...old.children].filter((child) => child.id).map((child) => [child.id, child]));
    let at = old.firstChild;
    for (const wanted of [...fresh.childNodes]) {
      const moved = wanted.id && byId.get(wanted.id);
      while (moved && at && at !== moved && at.nodeType !== Node.ELEMENT_NODE) {
        const next = at.nextSibling;
        at.remove();
        at = next;
      }
      if (moved && moved !== at && same(moved, wanted)) {
        old.insertBefore(moved, at);
        become(moved, wanted);
      } else if (at && same(at, wanted)) {
        const next = at.nextSibling;
        become(at, wanted);
        at = next;
      } else {
        const added = document.importNode(wanted, true);
        old.insertBefore(added, at);
        for (const output of added.querySelectorAll?.("[data-follow]") ?? []) output.scrollTop = output.scrollHeight;
      }
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  }

  function announcements() {
    return new Map([...document.querySelectorAll("[data-announce]")].map((e) => [e.id, e.dataset.announce]));
  }

  async function look() {
    if (asking || document.hidden) {
      askAgain = true;
      return;
    }
    asking = true;
    askAgain = false;
    try {
      const answer = await fetch(location.href, { headers: { "X-Live": "1" } });
      if (answer.status === 401) return location.reload();
      if (!answer.ok) return;
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const before = announcements();
      for (const old of document.querySelectorAll("[data-live]")) {
        const fresh = page.getElementById(old.id);
        if (fresh) become(old, fresh);
      }
      tick();
      const news = [...announcements()].filter(([id, text]) => before.get(id) !== text).map(([, text]) => text);
      if (news.length) announcer.textContent = news.join(", ");
    } catch {
      show("lost");
    } finally {
      asking = false;
      if (askAgain && !document.hidden) setTimeout(look, 250);
    }
  }

  function show(state) {
    link.hidden = false;
    link.dataset.state = state;
    link.querySelector(".link-word").textContent = state === "live" ? "live" : "reconnecting";
  }

  // A hidden tab holds no connection: browsers allow only a few to one host.
  function listen() {
    if (document.hidden) {
      source?.close();
      source = null;
      return;
    }
    if (source) return;
    source = new EventSource("/events");
    let first = true;
    source.addEventListener("open", () => {
      show("live");
      if (!first || askAgain) look();
      first = false;
    });
    source.addEventListener("changed", look);
    source.addEventListener("error", () => {
      show("lost");
      // Refused for good (logged out): the page itself knows where to go.
      if (source && source.readyState === EventSource.CLOSED) { source = null; look(); setTimeout(listen, 5000); }
    });
  }

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) askAgain = true;
    listen();
  });
  for (const output of document.querySelectorAll("[data-follow]")) output.scrollTop = output.scrollHeight;
  setInterval(tick, 1000);
  // Output of a running script comes more often than other changes are worth telling.
  setInterval(() => { if (document.querySelector("[data-poll]")) look(); }, 1500);
  tick();
  listen();
})();
