/* Notify the user with a tone, and a notification if allowed, when the run of the current study ends. Browsers require a
   click for both. The script reads only the study strip, which is on every tab. */
() => {
  const strip = document.getElementById("ab-strip");
  const shown = () => ({
    study: strip.querySelector("h2")?.textContent ?? "",
    badge: strip.querySelector(".ab-strip-head .ab-badge"),
  });
  const busy = (badge) => badge?.classList.contains("ab-running") || badge?.classList.contains("ab-waiting");
  const { study } = shown();
  const sound = new AudioContext();
  if ("Notification" in window && Notification.permission === "default") Notification.requestPermission();
  const tone = () => {
    const oscillator = sound.createOscillator();
    const volume = sound.createGain();
    volume.gain.setValueAtTime(0.15, sound.currentTime);
    volume.gain.exponentialRampToValueAtTime(0.001, sound.currentTime + 1.2);
    oscillator.frequency.value = 660;
    oscillator.connect(volume).connect(sound.destination);
    oscillator.start();
    oscillator.stop(sound.currentTime + 1.2);
  };
  window.abBell?.disconnect();
  window.abBell = new MutationObserver(() => {
    const now = shown();
    if (now.study !== study || !now.badge || busy(now.badge)) return; // another study is selected, or the run continues
    window.abBell.disconnect();
    tone();
    if ("Notification" in window && Notification.permission === "granted")
      new Notification(`${study}: ${now.badge.textContent}`, { body: "Assistant Builder" });
  });
  window.abBell.observe(strip, { childList: true, subtree: true, characterData: true });
  return NOTIFIED;
}
