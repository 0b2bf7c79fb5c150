/* Every request of this window asks for the language in which the page was sent, and gradio's own texts are in it, even
   if another language is chosen in another window. Runs before gradio's scripts. */
{
  const language = document.documentElement.lang;
  for (const [name, value] of [["language", language], ["languages", [language]]])
    Object.defineProperty(window.navigator, name, { get: () => value });
  const send = window.fetch;
  window.fetch = (resource, options = {}) => {
    const headers = new Headers(options.headers ?? (resource instanceof Request ? resource.headers : undefined));
    headers.set("Accept-Language", language);
    return send(resource, { ...options, headers });
  };
}
