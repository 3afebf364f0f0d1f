// The mask brush: a picture with a canvas of its own size over it. Marked pixels are what may change.
// In `element`: see `edit_page.easel`. Tells Python "upload" ({sha256, width, height}) and "error" ({message}).
const find = (selector) => element.querySelector(selector);
const canvas = () => find("canvas");
const drawing = (pad) => pad.getContext("2d", { willReadFrequently: true });
const state = { erasing: false, undo: [], last: null, moved: false };

const pen = () => {
  const pad = canvas(), context = drawing(pad);
  const share = Number(find("[name=size]")?.value ?? 12) / 100;
  context.lineCap = context.lineJoin = "round";
  context.lineWidth = Math.max(1, share * Math.max(pad.width, pad.height));
  context.strokeStyle = context.fillStyle = "#e5007d";
  context.globalCompositeOperation = state.erasing ? "destination-out" : "source-over";
  return context;
};

const remember = () => {
  const pad = canvas();
  state.undo.push(drawing(pad).getImageData(0, 0, pad.width, pad.height));
  if (state.undo.length > 20) state.undo.shift();
};

const place = (event) => {
  const pad = canvas(), box = pad.getBoundingClientRect();
  return {
    x: ((event.clientX - box.left) / box.width) * pad.width,
    y: ((event.clientY - box.top) / box.height) * pad.height,
  };
};

const stroke = (from, to) => {
  const context = pen();
  context.beginPath();
  context.moveTo(from.x, from.y);
  context.lineTo(to.x + 0.01, to.y); // a dot, where the pointer did not move
  context.stroke();
};

// Whole pixels, on or off: what is shown is what will change.
const marked = () => {
  const pad = canvas();
  if (!pad) return "";
  const seen = drawing(pad).getImageData(0, 0, pad.width, pad.height);
  const out = document.createElement("canvas");
  out.width = pad.width;
  out.height = pad.height;
  const made = new ImageData(pad.width, pad.height);
  let any = false;
  for (let i = 0; i < seen.data.length; i += 4) {
    const on = seen.data[i + 3] > 127 ? 255 : 0;
    any ||= on > 0;
    made.data[i] = made.data[i + 1] = made.data[i + 2] = on;
    made.data[i + 3] = 255;
  }
  if (!any) return "";
  out.getContext("2d").putImageData(made, 0, 0);
  return out.toDataURL("image/png");
};
window.wordbrushMask = marked;

const acts = {
  paint: () => choose(false),
  erase: () => choose(true),
  undo: () => { const before = state.undo.pop(); if (before) drawing(canvas()).putImageData(before, 0, 0); },
  clear: () => { remember(); drawing(canvas()).clearRect(0, 0, canvas().width, canvas().height); },
  fill: () => { remember(); state.erasing = false; pen().fillRect(0, 0, canvas().width, canvas().height); choose(false); },
  file: () => find("input[type=file]").click(),
};

const choose = (erasing) => {
  state.erasing = erasing;
  for (const button of element.querySelectorAll("[data-tool=paint], [data-tool=erase]"))
    button.setAttribute("aria-pressed", String((button.dataset.tool === "erase") === erasing));
};

element.addEventListener("click", (event) => {
  const button = event.target.closest("[data-tool]");
  if (button) acts[button.dataset.tool]();
});

element.addEventListener("pointerdown", (event) => {
  if (event.target !== canvas() || event.button > 0) return;
  event.preventDefault();
  canvas().focus({ preventScroll: true });
  canvas().setPointerCapture(event.pointerId);
  remember();
  state.last = place(event);
  stroke(state.last, state.last);
});
element.addEventListener("pointermove", (event) => {
  if (event.target !== canvas()) return;
  follow(place(event));
  if (!state.last) return;
  const to = place(event);
  stroke(state.last, to);
  state.last = to;
});
for (const kind of ["pointerup", "pointercancel"])
  element.addEventListener(kind, () => { state.last = null; });

// A ring shows where and how wide the brush is, for the pointer as for the keyboard.
const cursor = { x: null, y: null };
const follow = (to) => {
  cursor.x = to.x;
  cursor.y = to.y;
  const ring = find(".wb-ring"), pad = canvas();
  if (!ring || !pad) return;
  ring.style.left = `${(100 * to.x) / pad.width}%`;
  ring.style.top = `${(100 * to.y) / pad.height}%`;
  ring.style.width = `${(100 * pen().lineWidth) / pad.width}%`;
};

element.addEventListener("keydown", (event) => {
  if (event.target !== canvas()) return;
  const pad = canvas(), step = pen().lineWidth / 2;
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const from = { x: cursor.x ?? pad.width / 2, y: cursor.y ?? pad.height / 2 };
  if (event.key in ways) {
    const [dx, dy] = ways[event.key];
    const within = (value, most) => Math.min(Math.max(value, 0), most);
    const to = { x: within(from.x + dx * step, pad.width), y: within(from.y + dy * step, pad.height) };
    if (event.shiftKey) { remember(); stroke(from, to); }
    follow(to);
  } else if (event.key === " ") {
    remember();
    follow(from);
    stroke(from, from);
  } else if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) {
    acts.undo();
  } else return;
  event.preventDefault();
  event.stopPropagation();
});

const send = async (file) => {
  if (!file) return;
  element.classList.add("wb-sending");
  try {
    const answer = await fetch("/v1/images", {
      method: "POST",
      headers: { "Content-Type": file.type || "application/octet-stream" },
      body: file,
    });
    const told = await answer.json();
    if (answer.ok) trigger("upload", { sha256: told.sha256, width: told.width, height: told.height });
    else trigger("error", { message: told.error?.message ?? "the picture was refused" });
  } catch {
    trigger("error", { message: "the server cannot be reached" });
  } finally {
    element.classList.remove("wb-sending");
  }
};
element.addEventListener("change", (event) => {
  if (event.target.type !== "file") return;
  send(event.target.files[0]);
  event.target.value = "";
});
element.addEventListener("dragover", (event) => { event.preventDefault(); element.classList.add("wb-over"); });
element.addEventListener("dragleave", () => element.classList.remove("wb-over"));
element.addEventListener("drop", (event) => {
  event.preventDefault();
  element.classList.remove("wb-over");
  send(event.dataTransfer.files[0]);
});
document.addEventListener("paste", (event) => {
  if (element.getClientRects().length && event.clipboardData.files.length) send(event.clipboardData.files[0]);
});

// Another picture: nothing of the old one's strokes is left. The canvas may be the same element as before.
watch("value", () => {
  state.undo = [];
  state.last = null;
  cursor.x = cursor.y = null;
  const pad = canvas();
  if (pad) drawing(pad).clearRect(0, 0, pad.width, pad.height);
  choose(false);
  shape();
});

// While the picture is to be extended, it stands in a frame of the size that it will have.
const shape = () => {
  const stage = find(".wb-stage"), pad = canvas(), page = document.querySelector("#wb-edit");
  if (!stage || !pad) return;
  const extends_ = page?.dataset.mode === "extend";
  const side = (name) => (extends_ && Number(document.querySelector(`#wb-edit-${name} input`)?.value)) || 0;
  const [left, top, right, bottom] = ["left", "top", "right", "bottom"].map((name) => Math.max(0, side(name)));
  const width = pad.width + left + right, height = pad.height + top + bottom;
  stage.style.setProperty("--ratio", `${width} / ${height}`);
  const image = stage.querySelector("img");
  image.style.left = `${(100 * left) / width}%`;
  image.style.top = `${(100 * top) / height}%`;
  image.style.width = `${(100 * pad.width) / width}%`;
  image.style.height = `${(100 * pad.height) / height}%`;
};
window.wordbrushMode = (mode) => { document.querySelector("#wb-edit").dataset.mode = mode; shape(); };

// What is painted is to be seen, also where it comes below the form.
window.wordbrushPressed = () => {
  document.querySelector("#wb-edit-out").scrollIntoView({ block: "nearest", behavior: "smooth" });
  return marked();
};
document.addEventListener("input", (event) => { if (event.target.closest?.("#wb-edit-form")) shape(); });
