// Keys on the page of a pair: a digit chooses an answer, Enter saves it. Everything works without this file, too.
"use strict";
document.addEventListener("keydown", (event) => {
  const form = document.querySelector("form.answer");
  const at = event.target;
  if (!form || event.repeat || event.altKey || event.metaKey || event.isComposing) return;
  if (at instanceof HTMLTextAreaElement) {
    if (event.key === "Enter" && event.ctrlKey) form.requestSubmit();
    return;
  }
  if (event.ctrlKey) return;
  if (/^[1-9]$/.test(event.key)) {
    const choice = form.querySelector(`input[data-key="${event.key}"]`);
    if (!choice) return;
    choice.checked = true;
    choice.focus();
    event.preventDefault();
  } else if (event.key === "Enter" && !at.closest("a, button, summary")) {
    form.requestSubmit();
    event.preventDefault();
  }
});
