// Panel of one device: its twin, commands to it and methods on it. Part of approval_page.html.
function device_panel(device) {
  const base = `/workspaces/${encodeURIComponent(workspace)}/devices/${encodeURIComponent(device)}`;
  const panel = el("div", "panel"), problem = el("small", "soft");
  problem.setAttribute("role", "status");
  const attempt = work => async event => {
    event?.preventDefault();
    try { problem.textContent = await work() || ""; } catch (error) { problem.textContent = error.message; }
  };

  const twin = el("form"), desired = el("textarea"), reported = el("pre"), state = el("small", "soft");
  desired.setAttribute("aria-label", "Desired properties");
  desired.spellcheck = false;
  let shown = null;  // the desired properties as the hub had them when the editor last followed it
  const edited = () => shown !== null && desired.value !== shown;
  twin.append(heading("Desired properties"), desired, el("button", "", "Replace desired"),
              heading("Reported properties"), reported, state);
  twin.addEventListener("submit", attempt(async () => {
    const {$version} = await call("PUT", `${base}/desired-properties`, JSON.parse(desired.value));
    shown = desired.value;
    await refresh();
    return `Desired properties are at version ${$version}.`;
  }));

  const command = el("form"), payload = input("Command payload", "payload"), bag = input("Command properties", "properties: name=value&...");
  const commands = el("div", "soft commands");
  command.append(heading("Command"), payload, bag, el("button", "", "Send command"), commands);
  command.addEventListener("submit", attempt(async () => {
    await call("POST", `${base}/c2d-messages?${encodeURI(bag.value.trim())}`, payload.value, "application/octet-stream");
    await refresh();
  }));

  const method = el("form"), name = input("Method name", "method"), argument = input("Method payload", "payload as JSON");
  const answer = el("pre");
  name.required = true;
  answer.hidden = true;
  method.append(heading("Method"), name, argument, el("button", "", "Call method"), answer);
  method.addEventListener("submit", attempt(async () => {
    answer.hidden = true;
    problem.textContent = "Waiting for the device ...";
    const body = {methodName: name.value.trim(), payload: argument.value.trim() ? JSON.parse(argument.value) : null};
    const {status, payload} = await call("POST", `${base}/methods`, body);
    answer.textContent = `${status} ${JSON.stringify(payload, null, 2)}`;
    answer.hidden = false;
  }));
  panel.append(twin, command, method, problem);

  function show_twin({properties, version}) {
    const {$version, $metadata, ...wanted} = properties.desired;
    const {$version: reported_version, $metadata: _, ...is} = properties.reported;
    const text = JSON.stringify(wanted, null, 2);
    if (!edited() && document.activeElement !== desired) desired.value = shown = text;
    reported.textContent = JSON.stringify(is, null, 2);
    state.textContent = `desired ${$version}, reported ${reported_version}, twin ${version}`;
  }

  function show_commands(messages) {
    commands.replaceChildren(...messages.map(message => {
      const row = el("div"), text = message.text === undefined ? `base64 ${message.base64}` : message.text;
      row.append(el("span", "tag", message.state), ` ${message.messageId || "(no id)"} ${text.slice(0, 80)}`);
      row.title = `number ${message.seq}, delivered ${message.deliveries} times, expires ${message.expiresAt}`;
      return row;
    }));
  }

  async function refresh() {
    show_twin(await call("GET", `${base}/twin`));
    show_commands((await call("GET", `${base}/c2d-messages?newest=10`)).messages);
  }

  async function follow() {  // leaves the outcome of the last action where it stands
    try { await refresh(); } catch (error) { problem.textContent = error.message; }
  }
  return {panel, follow};
}

function heading(text) { return el("h3", "", text); }

function input(label, placeholder) {
  const made = el("input");
  made.setAttribute("aria-label", label);
  made.placeholder = placeholder;
  made.autocomplete = "off";
  return made;
}
