/* Gradio 6.31 does not stop the clock of a progress display that is removed while it waits: it runs with every frame for
   ever, which costs some percent of a core. Clocks therefore tick once a second. Runs before gradio's scripts. */
{
  const isClock = /performance\.now\(\)[^;]*\/\s*1e3/;
  const requestFrame = window.requestAnimationFrame.bind(window);
  window.requestAnimationFrame = (callback) =>
    isClock.test(Function.prototype.toString.call(callback)) ? setTimeout(callback, 1000) : requestFrame(callback);
}
