// A plugin in JavaScript, straight from the contract in wit/plugin.wit: no SDK.
//
// describe() says what bodies there are; run(name, args) makes one attempt. What is returned is JSON text; what is thrown is a
// `task-error` of the contract: { tag, val }.

import { attempt } from "taskhost:plugin/context@0.1.0";
import { log } from "taskhost:plugin/log@0.1.0";

const bodies = {
  greet: {
    doc: "Greets somebody by name.",
    parameters: [{ name: "name", schema: '{"type":"string","minLength":1}', optional: false }],
    returns: '{"type":"string"}',
    run(name) {
      if (typeof name !== "string" || name === "") {
        throw failure("invalid-arguments", `parameter \`name\` (argument 1): expected a string that is not empty, got ${JSON.stringify(name)}`);
      }
      log("info", "greeting", [["name", name], ["attempt", String(attempt())]]);
      return `Hello, ${name}!`;
    },
  },
};

export const tasks = {
  describe() {
    return {
      version: "0.1.0",
      doc: "Greetings, from JavaScript",
      bodies: Object.entries(bodies).map(([name, { doc, parameters, returns }]) => ({ name, doc, parameters, returns, hints: [] })),
    };
  },

  run(name, args) {
    const body = Object.hasOwn(bodies, name) ? bodies[name] : undefined;
    if (body === undefined) {
      throw failure("invalid-arguments", `this plugin has no body \`${name}\``);
    }
    const values = JSON.parse(args);
    if (!Array.isArray(values) || values.length > body.parameters.length) {
      throw failure("invalid-arguments", `${name} takes a list of ${body.parameters.length} argument(s), got ${args}`);
    }
    return JSON.stringify(body.run(...values));
  },
};

function failure(tag, message) {
  return { tag, val: { message, code: null, detail: null } };
}
