// What the pages share: the service's failures and its quota, in words.

const HINTS = {
  401: "Enter the token that the operator gave you, as a whole. Once it is replaced by a newer one, only that works.",
  406: "The service gives JSON or a PNG only.",
  429: "The quota of a minute is used up.",
  500: "It is not your fault. The operator finds more in the log.",
  503: "The photo was not counted.",
};

/** A failure of the service as a title, what to do, and what is left of the quota. */
export function explain(response, reply) {
  if (!reply) return { title: `The server answers with ${response.status}, but not as this service does.`, hint: "" };
  const details = Object.entries(reply.details ?? {}).map(([field, reasons]) => `${field}: ${[reasons].flat().join(" ")}`);
  const wait = response.headers.get("Retry-After");
  const hint = details.length ? details.join(" ") : HINTS[response.status] ?? "";
  const again = wait === null ? "" : ` Try again in ${wait} ${wait === "1" ? "second" : "seconds"}.`;
  return { title: `${response.status} ${reply.error}: ${reply.message}`, hint: hint + again, left: quota(response) };
}

/** What is left of the caller's quota, if the reply says so. */
export function quota({ headers }) {
  const [limit, left, reset] = ["Limit", "Remaining", "Reset"].map((name) => headers.get(`X-Ratelimit-${name}`));
  return limit === null ? "" : `${left} of ${limit} requests left, for ${reset} s.`;
}
