() => {
  const originalFetch = window.fetch;
  let leaving = false; // the logout button was pressed; its page has its own message
  window.addEventListener("submit", () => { leaving = true; }, { capture: true });
  const leave = () => {
    if (leaving) return;
    leaving = true;
    const query = new URLSearchParams({ next: window.location.search.slice(1), said: "over" });
    window.location.assign(`/login?${query}`);
  };
  window.fetch = async (...all) => {
    const response = await originalFetch.apply(window, all);
    // there is no session, or another one than that of this window; in the second case the page reloads at once
    if (response.headers.has("X-Log-In")) leave();
    return response;
  };
  // Polling is no user activity; these events are, and extend the session.
  let reported = Date.now();
  const active = () => {
    if (Date.now() - reported < 30000) return;
    reported = Date.now();
    window.fetch("/active", { method: "POST" }).catch(() => {});
  };
  for (const kind of ["pointerdown", "keydown", "wheel"]) {
    window.addEventListener(kind, active, { capture: true, passive: true });
  }
}
