// Says in a page that is still open that its session has ended: a log-out in another window, or a revocation.
const events = new EventSource("/live");
events.addEventListener("ended", () => {
  events.close(); // it would ask again
  document.getElementById("elsewhere").hidden = false;
});
addEventListener("submit", () => events.close()); // this window knows what it does itself
addEventListener("pageshow", (event) => event.persisted && location.reload()); // the way back shows no old page
