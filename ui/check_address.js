(() => {
  // Behind a proxy that hides the address of the page, its files and questions go elsewhere: say what the proxy must do.
  const served = new URL(window.gradio_config.root);
  served.protocol = location.protocol; // a proxy adds TLS
  const [from, to] = [`${served.pathname}/`.replace("//", "/"), location.pathname.replace(/[^/]*$/, "")];
  const host = "must pass on the Host header of the browser (nginx: proxy_set_header Host $http_host;).";
  const path = "must send X-Forwarded-Prefix and be named with --forwarded-allow-ips, or start the server with --root-path.";
  const remedy = served.host !== location.host ? host : path;
  if (served.host === location.host && from === to) return;
  const message = document.createElement("p");
  message.setAttribute("role", "alert");
  message.style.cssText = "margin: 1rem; font-weight: bold;";
  message.textContent =
    `This page cannot work here: it is at ${location.host}${to}, and the server was asked for ${served.host}${from}. ` +
    `A proxy before the server ${remedy}`;
  document.body.prepend(message);
})();
