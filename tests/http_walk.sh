BASE=${BASE:-http://127.0.0.1:8000} TOKEN=${TOKEN:-dev}
api() {
  path=$1; shift
  curl -sS --fail-with-body -H "Authorization: Bearer $TOKEN" "$BASE$path" "$@"
}

# A conversation, with a tool that the caller answers.
conversation=$(api /agents/conversations --json '{
  "system_prompt": "Help people book rooms. Ask before you book.",
  "defaults": {
    "model": "anthropic.claude-opus-4.6",
    "client_tools": [{"alias": "user", "tools": [{
      "name": "approve",
      "description": "Ask the person to approve a slot.",
      "input_schema": {"type": "object", "properties": {"slot": {"type": "string"}}}
    }]}]
  }
}' | jq -r .id)

# A run. Send it again under the same key as often as you like: it runs once.
run=$(api "/agents/conversations/$conversation/runs" --json '{
  "client_op_id": "5f0c1f9e-74a9-4a0d-9f3b-0d8f6a1f2c77",
  "expected_version": 0,
  "payload": {"kind": "user_message", "text": "Is room 3 free on Friday? Book it if so."}
}' | jq -r .id)

# Poll until it ends, or pauses for you.
ended='IN(.status; "completed", "requires_action", "failed")'
until api "/agents/runs/$run" | jq -e "$ended" > /dev/null; do sleep 1; done
api "/agents/runs/$run" | jq -c '[.status, .pending_tool_calls[0].name]'

# Answer the call: a new run on the version that the conversation has now.
call=$(api "/agents/runs/$run" | jq -r '.pending_tool_calls[0].tool_use_id')
version=$(api "/agents/conversations/$conversation" | jq .version)
run=$(api "/agents/conversations/$conversation/runs" --json '{
  "client_op_id": "c0ffee00-1111-4222-8333-444455556666",
  "expected_version": '"$version"',
  "payload": {"kind": "tool_outputs",
              "outputs": [{"tool_use_id": "'"$call"'", "content": "approved"}]}
}' | jq -r .id)

# Follow this one as it happens, instead of polling.
api "/agents/runs/$run/events" --no-buffer
api "/agents/runs/$run" | jq -r .final_text

# Everything that was said.
api "/agents/conversations/$conversation/messages?since=0" |
  jq -c '.messages[] | [.sequence_no, .role, .content_blocks[0].type]'
