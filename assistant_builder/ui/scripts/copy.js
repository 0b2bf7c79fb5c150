// Buttons that copy the text of [data-text] within [data-copied]; no server is needed.
element.addEventListener("click", (event) => {
  const button = event.target.closest('button[data-action="copy"]');
  if (!button) return;
  const before = button.textContent;
  const text = button.closest("[data-copied]").querySelector("[data-text]").textContent;
  const showResult = (word) => {
    button.textContent = word;
    setTimeout(() => { button.textContent = before; }, 1500);
  };
  const copyWithSelection = () => { // without HTTPS and localhost there is no clipboard API
    const area = document.createElement("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    button.focus();
    showResult(done ? COPIED : NOT_ALLOWED);
  };
  if (navigator.clipboard) navigator.clipboard.writeText(text).then(() => showResult(COPIED), copyWithSelection);
  else copyWithSelection();
});
