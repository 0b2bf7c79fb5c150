// One pane of the chat. Buttons in it become events.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (!button || button.dataset.action === "copy") return;
  const { action, turn, side, place } = button.dataset;
  trigger("click", { action, turn: Number(turn), side, place: Number(place) });
});
element.addEventListener("submit", (event) => {
  event.preventDefault();
  const { turn, side } = event.target.dataset;
  const { answer, question, decline } = Object.fromEntries(new FormData(event.target, event.submitter));
  trigger("click", { action: decline ? "decline" : "save", turn: Number(turn), side, answer, question });
});

// The pane is redrawn about twelve times a second: scroll position and focus are restored.
let fromTop = null;
let focused = null;
let asked = element.querySelectorAll(".ab-asked").length;
const key = (button) => [button.dataset.action, button.dataset.turn, button.dataset.place].join();
element.addEventListener("scroll", (event) => {
  const talk = event.target;
  if (!talk.classList || !talk.classList.contains("ab-talk")) return;
  const range = talk.scrollHeight - talk.clientHeight;
  fromTop = Math.abs(talk.scrollTop) < 8 ? null : range + talk.scrollTop;
}, true);
element.addEventListener("focusin", (event) => {
  focused = event.target.matches("button[data-action]") ? key(event.target) : null;
});
watch("value", () => {
  const form = element.querySelector("form");
  if (form) {
    const answer = form.querySelector("textarea");
    answer.focus({ preventScroll: true });
    for (const part of [form, answer]) part.scrollIntoView({ block: "nearest" });
    return;
  }
  const questions = element.querySelectorAll(".ab-asked").length;
  // the end of the pane, which the question box covers where the window is low
  if (questions > asked) element.querySelector(".ab-pane").scrollIntoView({ block: "nearest" });
  asked = questions;
  const talk = element.querySelector(".ab-talk");
  if (talk && fromTop !== null) talk.scrollTop = fromTop - (talk.scrollHeight - talk.clientHeight);
  if (focused && document.activeElement === document.body) {
    const same = [...element.querySelectorAll("button[data-action]")].find((button) => key(button) === focused);
    if (same) same.focus({ preventScroll: true });
  }
});
