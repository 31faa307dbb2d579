(...inputs) => {
  // At once and before any answer: show where answers will come, and scroll there if that is off the screen (on a phone,
  // its keyboard covers half of it). Not for the example that the page opens with, for which nobody has asked.
  // Questions are numbered, so that the server drops all but the newest.
  if (!window.triptychOpening) {
    const answers = document.getElementById("side-by-side");
    const places = document.querySelector("#places template");
    if (!answers.querySelector(".triptych")) answers.querySelector(".prose").replaceChildren(places.content.cloneNode(true));
    for (const place of document.querySelectorAll("#side-by-side .triptych, #why .why")) place.classList.add("waiting");
    const { top } = answers.getBoundingClientRect();
    const seen = window.visualViewport?.height ?? window.innerHeight;
    const by = top < 0 ? top - 16 : Math.min(top - 16, top + 320 - seen);
    if (top < 0 || by > 0) window.scrollBy(0, by);
  }
  window.triptychOpening = false;
  window.triptychAsked = (window.triptychAsked ?? 0) + 1;
  return [...inputs.slice(0, -1), window.triptychAsked];
}
