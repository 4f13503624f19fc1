#!/bin/bash
# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the selfhost.websocket authors
#
# From a fresh machine to a serving fleet on a test host. Again: changes nothing.
"$(dirname "$0")/prerequisites.sh" || exit
. "$(dirname "$0")/common.sh"

run=up-$clone
lab/lab up --run "$run" ${SUITE:+--suite "$SUITE"} fleet
lab/standins.sh
lab/inventory --run "$run" --directory .lab/up fleet=ws_edge,ws_workers,ws_redis,ws_postgres,ws_observability
ansible-playbook -i .lab/up/inventory playbooks/site.yml
lab/lab ssh --run "$run" fleet cat /etc/ssl/ws/ca.pem >.lab/up/ca.pem.new
mv .lab/up/ca.pem.new .lab/up/ca.pem

url=$(.venv/bin/python -c 'import json; print(json.load(open(".lab/up/status.json"))["url"])')
cat <<END

The fleet serves at  $url

A token              make token USER=alice
Talk, two terminals  .venv/bin/python lab/talk.py alice
                     .venv/bin/python lab/talk.py bob
With websocat        SSL_CERT_FILE=.lab/up/ca.pem websocat -H="Authorization: Bearer \$(make token USER=alice)" $url
                     then type  {"type":"join","room":"lobby"}
                     and        {"type":"publish","room":"lobby","data":"hello","id":"1"}
Everything about it  make status
Its state in numbers make look
A shell on the host  lab/lab ssh --run $run fleet
Take it away         make down
END
