"use strict";
(() => {
  // For print, everything is open; without this script only what the reader has opened.
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((part) => { part.open = true; }));
  const form = document.getElementById("find");
  if (!form) return;
  const field = document.getElementById("find-text");
  const found = document.getElementById("find-count");
  const prompts = [...document.querySelectorAll(".prompt")].map((prompt) => [prompt, prompt.textContent.toLowerCase()]);
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\s+/).filter((word) => word !== "");
    let count = 0;
    for (const [prompt, text] of prompts) {
      const shown = words.every((word) => text.includes(word));
      prompt.hidden = !shown;
      count += shown ? 1 : 0;
    }
    found.textContent = words.length === 0 ? "" : `${count} of ${prompts.length} prompts`;
  });
})();
