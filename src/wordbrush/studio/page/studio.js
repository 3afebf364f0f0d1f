// The page's own behaviour: light or dark, the keyboard, dropped pictures, and painting as one types.
(() => {
  "use strict";
  const kept = "wordbrush-theme";
  const read = () => { try { return localStorage.getItem(kept); } catch { return null; } };
  const chosen = () => read() ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");

  // Gradio sets the class itself once it has started; what was chosen here last has the last word.
  const applyTheme = () => {
    const dark = chosen() === "dark";
    document.documentElement.style.colorScheme = dark ? "dark" : "light";
    if (document.body && document.body.classList.contains("dark") !== dark) document.body.classList.toggle("dark", dark);
    for (const button of document.querySelectorAll("#wb-theme")) {
      const pressed = String(dark);
      if (button.getAttribute("aria-pressed") !== pressed) button.setAttribute("aria-pressed", pressed);
    }
  };
  window.wordbrushTheme = () => {
    const next = chosen() === "dark" ? "light" : "dark";
    try { localStorage.setItem(kept, next); } catch { /* a browser that keeps nothing forgets it */ }
    applyTheme();
  };

  const shown = (selector) =>
    [...document.querySelectorAll(selector)].find((each) => each.getClientRects().length > 0 && !each.disabled);
  const open = () => shown(".wb-overlay");
  const press = (selector) => {
    const within = open();
    const button = within ? [...within.querySelectorAll(selector)].find((each) => !each.disabled) : shown(selector);
    if (button) button.click();
    return Boolean(button);
  };

  document.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    const typing = event.target.closest?.("input, textarea, select, [contenteditable]");
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      if (press(".wb-go")) { event.preventDefault(); event.stopPropagation(); }
    } else if (event.key === "Escape") {
      if (document.querySelector("ul[role=listbox].options")) return; // an open list closes first
      press(".wb-stop");
    } else if (!typing && open() && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
      press(event.key === "ArrowLeft" ? ".wb-prev" : ".wb-next");
    } else if (event.key === "Tab" && open()) {
      keepInside(event, open());
    }
  }, true);

  // A dialog keeps the focus until it is closed.
  const keepInside = (event, dialog) => {
    const stops = [...dialog.querySelectorAll("button, a[href], input, textarea, select")]
      .filter((each) => each.getClientRects().length > 0 && !each.disabled);
    if (!stops.length) return;
    const first = stops[0], last = stops[stops.length - 1];
    const outside = !dialog.contains(document.activeElement);
    if (event.shiftKey ? outside || document.activeElement === first : outside || document.activeElement === last) {
      event.preventDefault();
      (event.shiftKey ? last : first).focus();
    }
  };

  // Any picture dropped anywhere gives its settings, except on a field that takes pictures itself.
  const carriesFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const fieldOfItsOwn = (event) => event.target.closest?.(".wb-drop");
  let depth = 0;
  const veil = (on) => document.body.classList.toggle("wb-dropping", on);
  const over = (event) => {
    if (!carriesFiles(event) || fieldOfItsOwn(event)) return;
    event.preventDefault();
    event.stopPropagation();
  };
  document.addEventListener("dragenter", (event) => {
    if (!carriesFiles(event)) return;
    depth += 1;
    veil(!fieldOfItsOwn(event));
    over(event);
  }, true);
  document.addEventListener("dragleave", (event) => {
    if (!carriesFiles(event)) return;
    depth = Math.max(0, depth - 1);
    if (depth === 0) veil(false);
  }, true);
  document.addEventListener("dragover", over, true);
  document.addEventListener("drop", (event) => {
    depth = 0;
    veil(false);
    if (!carriesFiles(event) || fieldOfItsOwn(event)) return;
    event.preventDefault();
    event.stopPropagation();
    const input = document.querySelector("#wb-header input[type=file]");
    const file = event.dataTransfer.files[0];
    if (!input || !file) return;
    const one = new DataTransfer();
    one.items.add(file);
    input.files = one.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }, true);

  // One call to the server when the typing rests, not one for every key.
  const resting = 220;
  let timer = 0;
  document.addEventListener("input", (event) => {
    if (!event.target.closest?.("#wb-prompt, #wb-negative")) return;
    clearTimeout(timer);
    timer = setTimeout(() => document.querySelector("#wb-typed")?.click(), resting);
  });

  // Phones show digits where numbers are wanted.
  document.addEventListener("focusin", (event) => {
    if (event.target.closest?.("#wb-steps, #wb-guidance, #wb-seed")) event.target.inputMode = "decimal";
  });

  // Two pictures on one another: the slider shows how much of the upper one.
  document.addEventListener("input", (event) => {
    const slider = event.target.closest?.(".wb-compare input[type=range]");
    if (slider) slider.closest(".wb-compare").style.setProperty("--cut", `${slider.value}%`);
  });

  const start = () => {
    applyTheme();
    new MutationObserver(applyTheme).observe(document.body, { attributes: true, attributeFilter: ["class"] });
    new MutationObserver((_, observer) => {
      if (!document.querySelector("#wb-theme")) return;
      applyTheme();
      observer.disconnect();
    }).observe(document.body, { childList: true, subtree: true });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", applyTheme);
  };
  if (document.body) start();
  else document.addEventListener("DOMContentLoaded", start);
})();
