() => {
  const ask = window.fetch;
  let leaving = false; // by the button that logs out: that page comes, with its own words
  window.addEventListener("submit", () => { leaving = true; }, { capture: true });
  const leave = () => {
    if (leaving) return;
    leaving = true;
    const query = new URLSearchParams({ next: window.location.search.slice(1), said: "over" });
    window.location.assign(`/login?${query}`);
  };
  window.fetch = async (...all) => {
    const answer = await ask.apply(window, all);
    // without a session, or with another than the one that opened this window: then the page comes back at once
    if (answer.headers.has("X-Log-In")) leave();
    return answer;
  };
  // That the page asks for news is no sign of a person; these are, and keep the session alive.
  let told = Date.now();
  const active = () => {
    if (Date.now() - told < 30000) return;
    told = Date.now();
    window.fetch("/active", { method: "POST" }).catch(() => {});
  };
  for (const kind of ["pointerdown", "keydown", "wheel"]) {
    window.addEventListener(kind, active, { capture: true, passive: true });
  }
}
