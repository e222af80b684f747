// Looks whether the page has changed, and loads it anew without losing the reader's place.
"use strict";
(() => {
  const every = 5000;
  const key = "mixce-watch";
  const version = document.documentElement.dataset.version;
  const status = document.getElementById("live");
  const field = document.getElementById("find-text");
  const opened = () => [...document.querySelectorAll("details")].map((details) => details.open);

  const restore = (saved) => {
    if (field && saved.search) {
      field.value = saved.search;
      field.dispatchEvent(new Event("input"));
    }
    document.querySelectorAll("details").forEach((details, place) => {
      details.open = saved.opened[place] === true;
    });
    if (field && saved.focused) {
      field.focus({ preventScroll: true });
    }
    window.scrollTo(0, saved.place);
  };

  let saved = null;
  try {
    saved = JSON.parse(sessionStorage.getItem(key));
    sessionStorage.removeItem(key);
  } catch {
    saved = null;
  }
  if (saved) {
    restore(saved);
  }

  const reload = () => {
    const search = field ? field.value : "";
    const focused = field !== null && document.activeElement === field;
    try {
      sessionStorage.setItem(key, JSON.stringify({ search, focused, opened: opened(), place: window.scrollY }));
    } catch {
      // Without storage the reader's place is lost.
    }
    location.reload();
  };

  const look = async () => {
    try {
      const headers = { "If-None-Match": `"${version}"` };
      const reply = await fetch("/", { method: "HEAD", headers, cache: "no-store" });
      if (reply.status === 200) {
        reload();
        return;
      }
    } catch {
      status.textContent = "The server has ended: this page no longer changes.";
      return;
    }
    setTimeout(look, every);
  };
  setTimeout(look, every);
})();
