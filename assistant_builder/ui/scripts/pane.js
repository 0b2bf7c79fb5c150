// One pane of the chat. Buttons in it become events; copying needs no server.
element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (!button) return;
  const { action, turn, side } = button.dataset;
  if (action !== "copy") {
    trigger("click", { action, turn: Number(turn), side });
    return;
  }
  const text = button.closest(".ab-said").querySelector("[data-text]").textContent;
  const showResult = (word) => {
    button.textContent = word;
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  };
  const copyWithSelection = () => {  // without HTTPS and localhost there is no clipboard API
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    button.focus();
    showResult(done ? "Copied" : "Not allowed");
  };
  if (navigator.clipboard) navigator.clipboard.writeText(text).then(() => showResult("Copied"), copyWithSelection);
  else copyWithSelection();
});

// The pane is redrawn every few tokens: scroll position and focus are restored.
let fromTop = null;
let focused = null;
const key = (button) => [button.dataset.action, button.dataset.turn].join();
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
  const talk = element.querySelector(".ab-talk");
  if (talk && fromTop !== null) talk.scrollTop = fromTop - (talk.scrollHeight - talk.clientHeight);
  if (focused && document.activeElement === document.body) {
    const same = [...element.querySelectorAll("button[data-action]")].find((button) => key(button) === focused);
    if (same) same.focus({ preventScroll: true });
  }
});
