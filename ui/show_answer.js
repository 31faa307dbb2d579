async () => {
  // If the tab for files is open, show the first tab, where the answer is. If the answer begins below the edge of the
  // screen, scroll until much of it is visible and no further (Gradio's own scroll_to_output would leave it there);
  // if it begins above, scroll to its top.
  const open = document.querySelector('button[role="tab"][aria-selected="true"]');
  if (open && open.textContent.trim() === "Score a file") document.querySelector('button[role="tab"]').click();
  await new Promise((drawn) => setTimeout(drawn, 100));
  const why = document.querySelector("#why .why");
  const [answer, height] = why?.offsetParent ? [why, 420] : [document.getElementById("message"), 320];
  const { top } = answer.getBoundingClientRect();
  const seen = window.visualViewport?.height ?? window.innerHeight; // what the keyboard of a phone leaves
  const by = top < 0 ? top - 16 : Math.min(top - 16, top + height - seen);
  if (top < 0 || by > 0) window.scrollBy(0, by);
}
