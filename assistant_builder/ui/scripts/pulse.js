// Polls the version of the page: every second while it keeps changing or the user acts, else every four. One change
// alone, such as that of "3 minutes ago", does not make it quick.
() => {
  window.abArrived = true;
  if (window.abPulse) return;
  let quickUntil = 0, changed = 0;
  const again = () => {
    clearTimeout(window.abPulse);
    window.abPulse = setTimeout(poll, document.hidden ? 5000 : Date.now() < quickUntil ? 1000 : 4000);
  };
  const quicken = () => {
    const slow = Date.now() > quickUntil;
    quickUntil = Date.now() + 15000;
    if (slow) again();
  };
  const poll = async () => {
    try {
      const study = new URL(window.location).searchParams.get("study");
      const answer = await fetch("PATH" + (study === null ? "" : "?study=" + encodeURIComponent(study)));
      const version = answer.ok ? await answer.text() : window.abDrawn;
      if (version !== window.abDrawn) {
        if (Date.now() - changed < 10000) quicken();
        changed = Date.now();
        document.getElementById("FOLLOW_ID").click();
      }
    } catch { /* the server is not reachable; the next poll tries again */ }
    again();
  };
  for (const kind of ["pointerdown", "keydown"]) window.addEventListener(kind, quicken, { capture: true, passive: true });
  document.addEventListener("visibilitychange", () => { if (!document.hidden) poll(); });
  quicken();
}
