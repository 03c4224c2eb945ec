/** The smallest adapter that the bundled demo's base model takes, made here: one rank on one module, and it changes no answer. */

/** Of the demo's base model. */
const WIDTH = 256;
const MODULE = "base_model.model.model.layers.0.self_attn.q_proj";
const FLOAT_BYTES = 4;

/** @param {number} alpha tells versions apart: the content is the identity
 * @returns {FormData} of POST …/versions: adapter_config.json and adapter_model.safetensors */
export function tinyAdapter(alpha) {
  const config = { peft_type: "LORA", task_type: "CAUSAL_LM", base_model_name_or_path: "multiflora-demo", r: 1, lora_alpha: alpha, target_modules: ["q_proj"], layers_to_transform: [0] };
  const form = new FormData();
  form.append("files", new File([JSON.stringify(config)], "adapter_config.json"));
  form.append("files", new File(safetensors(), "adapter_model.safetensors"));
  return form;
}

/** Two tensors of zeros: the header's length (64 bits, little-endian), the header, the numbers. */
function safetensors() {
  const size = WIDTH * FLOAT_BYTES;
  const header = new TextEncoder().encode(JSON.stringify({
    [`${MODULE}.lora_A.weight`]: { dtype: "F32", shape: [1, WIDTH], data_offsets: [0, size] },
    [`${MODULE}.lora_B.weight`]: { dtype: "F32", shape: [WIDTH, 1], data_offsets: [size, 2 * size] },
  }));
  return [new BigUint64Array([BigInt(header.length)]), header, new Uint8Array(2 * size)];
}
