/* Keep the address, the history and the title of the page in step with the selected study and tab. The address is the
   state: a new one is an entry of the history, and Back, Forward and Reload read it. */
(name, tab) => {
  const titles = TITLES;
  let study = null;
  let opened = null; // the tab that the server opens, until it is drawn
  let timer = null;
  let returning = false; // Back or Forward was pressed, and the server has not answered yet
  const selectedTab = () => document.querySelector('#ab-tabs [role="tab"][aria-selected="true"]');
  const selected = () => selectedTab()?.dataset.tabId ?? null;
  // The picker shows the title of the study and its state.
  const called = () => document.querySelector("#ab-picker input")?.value.split("  ·  ")[0] || study;
  const center = () => { // a narrow window shows some of the tabs
    const shown = selectedTab();
    if (shown) shown.parentElement.scrollLeft = shown.offsetLeft - (shown.parentElement.clientWidth - shown.offsetWidth) / 2;
  };
  const widths = new ResizeObserver(center); // their titles get a tick later
  const write = (method) => {
    const url = new URL(window.location);
    const tab = study === null ? null : selected();
    if (study !== null && (tab === null || (opened ?? tab) !== tab)) return later(method);
    opened = null;
    for (const tab of document.querySelectorAll('#ab-tabs [role="tab"]')) widths.observe(tab);
    center();
    url.searchParams.delete("lang"); // the server keeps the choice
    for (const [key, value] of [["study", study], ["tab", tab]]) {
      if (value === null) url.searchParams.delete(key);
      else url.searchParams.set(key, value);
    }
    if (url.href !== window.location.href) window.history[method](null, "", url);
    const parts = study === null ? [] : [study ? called() : titles[""], titles[tab] ?? tab];
    document.title = [...parts, "Assistant Builder"].join(" · ");
  };
  // Study and tab change one after the other: they are one entry.
  const later = (method) => {
    clearTimeout(timer);
    timer = setTimeout(() => { if (!returning) write(method); }, 100);
  };
  window.abAddress = {
    show: (name) => { study = name ?? null; later("pushState"); },
    showTab: (tab) => { if (tab !== opened) { opened = null; later("pushState"); } },
    arrived: (name, tab) => {
      [study, opened, returning] = [name ?? null, tab, false];
      later("replaceState");
    },
  };
  window.abAddress.arrived(name, tab);
  window.addEventListener("popstate", () => {
    returning = true;
    document.getElementById("RETURN_ID").click();
  });
}
