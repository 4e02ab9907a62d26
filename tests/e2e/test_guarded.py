"""What must not get in, and not get out: each kind of attack that was shown to work, and the tests that hold it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from support.provider import Behaviour, Provider
from support.proxy import Mitmdump
from support.raw import Wire, chat
from support.settings import route

TESTS = Path(__file__).parents[1]
GUARDED: dict[str, str] = {
    "1 a ./sidestep.toml of a stranger": (
        "e2e/test_trust: test_a_proxy_that_is_started_in_a_folder test_run_in_a_folder test_a_probe_in_a_folder"
    ),
    "2 a stranger's server under the intercept's name": (
        "e2e/test_elsewhere: test_a_host_field_makes_no_server test_a_stranger_s_certificate_makes_no_provider "
        "test_a_client_without_rights_changes_nothing"
    ),
    "3 a body that is read before the trust check, and without a bound": (
        "e2e/test_strangers: test_a_strangers_body_is_not_read; e2e/test_costs: test_a_request; "
        "e2e/test_bombs: test_a_bomb_in_the_request_is_not_read; dialects/test_bodies: test_a_crowded_body_is_not_built"
    ),
    "4 a length that is not the body's": (
        "e2e/test_framing: test_an_answer_is_as_long_as_it_says test_over_http2 "
        "test_what_breaks_off_is_seen_to_where_only_the_connection_ends_it; "
        "calls/test_watching_encoded: test_an_event_that_no_sdk_could_read_leaves_its_length_behind"
    ),
    "5 a tunnel's peer with a loopback address": (
        "calls/test_clients: test_loopback_is_what_the_kernel_says; e2e/test_modes: test_wireguard test_tun; "
        "e2e/test_elsewhere: test_an_address_inside_a_tunnel_proves_nothing"
    ),
    "6 numbers beyond every range": (
        "calls/test_odd_values: test_in_an_event_of_a_stream test_in_a_whole_answer test_in_an_error; "
        "breaker/test_numbers: test_counts_and_places test_decimals"
    ),
    "7 a 101 that answers no handshake": (
        "e2e/test_framing: test_nobody_switches_protocols_of_a_call test_the_apps_own_provider_switches_nothing_either"
    ),
    "8 web pages": (
        "e2e/test_browsers: test_a_page_and_a_port_of_this_machine test_a_page_in_a_browser_behind_the_proxy "
        "test_a_name_that_comes_to_resolve_to_this_machine; calls/test_clients: test_what_a_web_page_looks_like"
    ),
    "9 credentials by other names": (
        "e2e/test_canary_names: test_over_http1 test_over_http2 test_over_a_websocket; "
        "calls/test_flows: test_a_stand_in_gets_what_is_listed; e2e/test_canary: test_no_credential_gets_out; "
        "e2e/test_canary_everywhere: test_no_credential_gets_anywhere"
    ),
    "10 gzip of several members, and what follows it": (
        "calls/test_decoding: test_a_gzip_body_of_several_members_is_one_body_whatever_follows_it "
        "test_endless_members_are_not_read_without_end; e2e/test_costs: test_a_request test_a_whole_answer"
    ),
    "11 heads without an end": (
        "mitm/test_layer: test_some_informational_heads_are_passed_over test_a_head_without_an_end_is_no_answer "
        "test_a_head_that_grows_byte_by_byte_takes_no_time"
    ),
    "12 tables that grow in bytes": (
        "e2e/test_tables: test_what_has_a_megabyte_is_not_kept test_what_is_made_up_has_an_end; "
        "test_forwarding: test_names_are_remembered_within_bounds"
    ),
    "13 a key that comes back": (
        "e2e/test_keys_that_come_back: test_no_form_of_a_key_gets_to_the_app_or_to_anybody_who_looks_on "
        "test_the_part_of_an_error_that_is_not_held_is_cut "
        "test_over_http2_names_of_fields_and_trailers_are_looked_at_too; "
        "mitm/test_keys_that_come_back: test_wherever_a_stream_is_cut_up"
    ),
    "14 trailers with a credential": (
        "e2e/test_canary_names: test_over_http2; e2e/test_http2: test_only_the_providers_keys_travel"
    ),
    "15 control characters in a rate limit's header": (
        "e2e/test_guarded: test_a_good_answer_stays_one_whatever_its_limits_say; "
        "breaker/test_ratelimits: test_nothing_raises test_retry_after_in_odd_forms"
    ),
    "16 bodies that may be read in different ways": (
        "e2e/test_unread: test_it_goes_home_as_it_is test_or_nowhere test_over_http2; "
        "e2e/test_elsewhere: test_what_cannot_be_read_goes_to_its_own_provider_or_nowhere "
        "test_forms_that_cannot_be_read; dialects/test_bodies: test_what_readers_may_read_differently"
    ),
    "17 paths that lead out of a base URL": (
        "e2e/test_elsewhere: test_no_path_leads_out_of_a_base_url; "
        "dialects/test_code_assist: test_a_model_that_would_lead_out_of_a_base_url_is_none; "
        "dialects/test_azure: test_a_model_that_would_lead_out_of_a_base_url_is_none"
    ),
    "18 a replay that loses edits": (
        "e2e/test_traps: test_a_replay_keeps_what_was_edited test_a_replay_fails_over_and_bears_its_credential; "
        "e2e/test_keys_that_come_back: test_a_replay_keeps_no_key_either"
    ),
    "19 streams that are reset at once": (
        "e2e/test_http2: test_streams_that_are_reset_as_soon_as_they_are_opened "
        "test_a_cancelled_stream_gives_its_permit_back test_a_stream_cancelled_while_connecting_asks_nobody"
    ),
    "20 a provider's own words": (
        "e2e/test_words: test_its_words_are_for_the_app_alone test_its_words_over_http_2 "
        "test_its_words_over_a_websocket test_a_head_that_cannot_be_read_is_not_quoted"
    ),
    "control characters in what logs, pages and terminals show": (
        "dialects/test_bodies: test_a_name_that_a_terminal_would_carry_out_is_none"
    ),
    "what stands in the store of a fleet": (
        "e2e/test_fleet: test_nothing_in_the_store_can_be_read test_whatever_stands_in_the_store_calls_go_on; "
        "e2e/test_fleet_store: test_what_is_none_of_ours_keeps_no_news_from_anybody "
        "test_what_is_none_of_ours_is_nobody_who_is_there test_what_is_no_utf_8_costs_no_connection; "
        "fleet/test_ledger: test_what_stays_for_ever_has_a_bound_too "
        "test_a_store_that_runs_in_a_circle_is_not_followed; fleet/test_member: test_a_stay_of_another_form_is_none "
        "test_what_is_not_understood_changes_nothing; fleet/test_causes: test_a_cause_has_its_words"
    ),
    "21 a key that goes out in the clear": (
        "config/test_advice: test_a_key_in_the_clear; "
        "e2e/test_trust: test_a_key_that_goes_out_in_the_clear_is_told_before"
    ),
    "other users of the machine, at the port of one's command": (
        "e2e/test_other_users: test_programs_of_other_users_are_refused test_one_that_leaves_at_once_uses_no_key "
        "test_the_command_of_root_may_go_on_as_another_user"
    ),
    "strangers at the port of another proxy, by way of one that they may use": (
        "e2e/test_strangers: test_a_stranger_is_led_to_no_other_proxy_of_this_machine"
    ),
    "requests that lead back to the proxy": "e2e/test_circles: test_it_goes_round_once",
    "all of them, by strangers, at random, for long": (
        "e2e/test_strangers: test_a_thousand_hostile_requests_of_strangers; "
        "e2e/test_fuzz: test_odd_inputs_do_no_harm; "
        "e2e/test_soak: test_after_failures_and_leaving_clients_all_is_as_it_was"
    ),
}
"""File by file, the tests of each."""


@pytest.mark.parametrize("kind", GUARDED)
def test_each_is_held_by_tests_that_exist(kind: str) -> None:
    for entry in GUARDED[kind].split("; "):
        file, _, names = entry.partition(": ")
        text = (TESTS / f"{file}.py").read_text()
        there = set(re.findall(r"^def (test_\w+)", text, re.MULTILINE))
        assert set(names.split()) <= there, file


LIMITS = {
    "control characters": [
        "retry-after: \x01\x0b",
        "x-ratelimit-reset-requests: 1\x1fs",
        "x-ratelimit-remaining: \x0c0",
    ],
    "no numbers": ["x-ratelimit-remaining-tokens: \xb2", "x-ratelimit-reset-tokens: NaN", "ratelimit: \xff;r=;t=\x7f"],
    "numbers without an end": [f"x-ratelimit-reset-requests: {'9' * 900}", f"x-codex-primary-reset-at: 1e{'9' * 99}"],
    "times that are none": ["x-ratelimit-reset: 9999-99-99T99:99:99Z", "retry-after: Sun, 99 Nov 2094 99:99:99 GMT"],
}


@pytest.mark.parametrize("what", LIMITS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_good_answer_stays_one_whatever_its_limits_say(
    provider: Callable[..., Provider], proxy: Callable[..., Mitmdump], what: str, stream: bool
) -> None:
    """It reaches the app as it is, and cools nobody down."""
    a = provider("a")
    event = b'data: {"choices":[{"index":0,"delta":{"content":"x"},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
    body = event if stream else b'{"choices":[{"message":{"content":"x"}}]}'
    kind = "text/event-stream" if stream else "application/json"
    lines = ["HTTP/1.1 200 OK", f"content-type: {kind}", f"content-length: {len(body)}", *LIMITS[what]]
    a.default = Behaviour(raw="\r\n".join([*lines, "", ""]).encode("latin-1") + body)
    m = proxy(route("chat", a, intercept="http://app.test/v1"))
    for user in ("one", "two"):
        with Wire(m) as wire:
            status, _, got = wire.send(chat("http://app.test/v1", stream=stream, user=user)).answer()
        assert (status, got) == (200, body)
    told = m.provider("a")
    assert (told["successes"], told["cooldown"], told["permits_out"]) == (2, None, 0)
