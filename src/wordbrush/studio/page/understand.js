// The way to one picture: a slider over its moments, and words whose maps are laid over the picture.
// Everything is in `element` already (see `understand_page`); nothing is asked of the server.
const all = (selector) => [...element.querySelectorAll(selector)];

const moment = (index) => {
  for (const each of all("[data-moment]")) each.hidden = Number(each.dataset.moment) !== index;
  for (const each of all("[data-to]")) each.setAttribute("aria-pressed", String(Number(each.dataset.to) === index));
  const slider = element.querySelector("[name=moment]");
  if (!slider) return;
  slider.value = index;
  slider.setAttribute("aria-valuetext", slider.dataset.said.split("|")[index]);
};

const word = (index) => {
  for (const each of all("[data-map]")) each.hidden = each.dataset.map !== index;
};
const pinned = () => element.querySelector("[data-word][aria-pressed=true]")?.dataset.word ?? "";

element.addEventListener("input", (event) => {
  if (event.target.name === "moment") moment(Number(event.target.value));
});
element.addEventListener("click", (event) => {
  const to = event.target.closest("[data-to]");
  if (to) moment(Number(to.dataset.to));
  const chosen = event.target.closest("[data-word]");
  if (!chosen) return;
  const on = chosen.getAttribute("aria-pressed") !== "true";
  for (const each of all("[data-word]")) each.setAttribute("aria-pressed", String(on && each === chosen));
  word(on ? chosen.dataset.word : "");
});
const looked = (event) => {
  const over = event.target.closest?.("[data-word]");
  if (over) word(over.dataset.word);
};
const left = (event) => { if (event.target.closest?.("[data-word]")) word(pinned()); };
element.addEventListener("pointerover", looked);
element.addEventListener("focusin", looked);
element.addEventListener("pointerout", left);
element.addEventListener("focusout", left);
